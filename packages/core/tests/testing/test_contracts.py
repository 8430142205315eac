"""The contract tests themselves: each fault is planted in a small component, and its contract must refuse it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from stdet.errors import DataError, StdetError
from stdet.export.metadata import QUANTIZATION_KEY
from stdet.interfaces.dataset import DatasetRequest, DatasetWriter, DetectionDataset, WriteRequest, WrittenSplit
from stdet.interfaces.deploy import BenchReport, DeployTarget, QuantizationResult
from stdet.interfaces.detector import Candidates, Detector, OutputPart
from stdet.interfaces.family import Options
from stdet.interfaces.scheduler import ScheduleLength, Scheduler
from stdet.interfaces.target import TargetSections
from stdet.interfaces.transform import Transform, TransformContext
from stdet.known import known
from stdet.plugins.loader import load_plugins
from stdet.registry import Catalogue, Entry
from stdet.structures import Annotation, DetectorSpec, Sample
from stdet.testing import (
    BrokenContract,
    Contract,
    DatasetContract,
    ModelContract,
    SchedulerContract,
    TargetContract,
    TransformContract,
)

FACTS = """
from stdet.interfaces.dataset import ReaderFacts
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.target import TargetFacts
from stdet.interfaces.transform import RecipeOptions
from stdet.structures import Preprocess

FAMILY = ModelFamily("toy", "toy", Preprocess(64, 64), "yolox", "cosine", False, 32, 64, "toy", (32,))
READER = ReaderFacts()
TARGET = TargetFacts(backends=("ruler",), default_backends=("ruler",))
RECIPE, SCHEDULE = RecipeOptions, Options
"""
"""The module that tells the config layer about the components below; faults of these facts are appended to it."""


class ToyDetector(Detector):
    """One anchor a 32-pixel cell, whose outputs are the box in cells and the logits; keeps the contract."""

    output_names = ("boxes", "scores")

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.body = nn.Conv2d(spec.preprocess.channels, 8, 32, 32)
        self.boxes = nn.Conv2d(8, 4, 1)
        self.scores = nn.Conv2d(8, len(spec.class_names), 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.body(images)
        return self.boxes(features), self.scores(features)

    def loss(self, raw: Any, targets: Any, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        """The cell that holds a box's centre learns it; the others learn that there is nothing."""
        boxes, logits = raw[0].flatten(2), raw[1].flatten(2)
        wanted, truth, places = torch.zeros_like(logits), self.shares(targets.boxes), targets.valid.nonzero()
        misses = boxes.sum() * 0
        for image, row in places.tolist():
            cell = self.cell(targets.boxes[image, row], raw[0].shape[-1])
            wanted[image, targets.labels[image, row], cell] = 1
            misses = misses + (boxes[image, :, cell] - truth[image, row]).square().sum()
        classes = nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        return {"total": misses + classes}

    def cell(self, box: Tensor, columns: int) -> int:
        x, y = ((box[:2] + box[2:]) / 64).int().tolist()
        return int(y * columns + x)

    def shares(self, boxes: Tensor) -> Tensor:
        """What the network answers for `boxes`: corner and size, in cells."""
        return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1) / 32

    def export_outputs(self, raw: Any) -> tuple[Tensor, ...]:
        return raw[0].flatten(2).transpose(1, 2), raw[1].flatten(2).transpose(1, 2).sigmoid()

    def decode(self, outputs: Any, input_size: tuple[int, int] | None = None) -> Candidates:
        corner, size = outputs[0][..., :2] * 32, outputs[0][..., 2:].abs() * 32
        return Candidates(torch.cat([corner, corner + size], -1), outputs[1])

    def class_dependent_keys(self) -> frozenset[str]:
        return frozenset({"scores.weight", "scores.bias"})


class TakesTargetsForCentres(ToyDetector):
    """The targets are taken for cxcywh."""

    def shares(self, boxes: Tensor) -> Tensor:
        return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., 2:]], -1) / 32


class TakesTargetsForSizes(ToyDetector):
    """The targets are taken for xywh."""

    def shares(self, boxes: Tensor) -> Tensor:
        return boxes / 32


class DecodesShares(ToyDetector):
    """Boxes in shares of the image rather than in pixels."""

    def decode(self, outputs: Any, input_size: tuple[int, int] | None = None) -> Candidates:
        found = super().decode(outputs)
        return Candidates(found.boxes / max(self.spec.preprocess.size), found.scores)


class DecodesRowsFirst(ToyDetector):
    """Boxes as y1, x1, y2, x2."""

    def decode(self, outputs: Any, input_size: tuple[int, int] | None = None) -> Candidates:
        found = super().decode(outputs)
        return Candidates(found.boxes[..., [1, 0, 3, 2]], found.scores)


class DecodesClassesBackwards(ToyDetector):
    def decode(self, outputs: Any, input_size: tuple[int, int] | None = None) -> Candidates:
        found = super().decode(outputs)
        return Candidates(found.boxes, found.scores.flip(-1))


class CanNotBeExported(ToyDetector):
    def export_outputs(self, raw: Any) -> tuple[Tensor, ...]:
        boxes, scores = super().export_outputs(raw)
        return boxes + torch.special.i0(boxes * 0) - 1, scores


class ChangesWhatItExports(ToyDetector):
    """The file holds another network than the one that was trained."""

    def export_outputs(self, raw: Any) -> tuple[Tensor, ...]:
        boxes, scores = super().export_outputs(raw)
        return boxes * (2 if torch.onnx.is_in_onnx_export() else 1), scores


class KeepsAnotherSpec(ToyDetector):
    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__(spec)
        self.spec = dataclasses.replace(spec, class_names=("other",) * len(spec.class_names))


class BranchesOnTraining(ToyDetector):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return super().forward(images)[: None if self.training else 1]


class SeesThreeChannels(ToyDetector):
    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__(spec)
        self.body = nn.Conv2d(3, 8, 32, 32)


class IsRandomInEvaluation(ToyDetector):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        boxes, scores = super().forward(images)
        return boxes + torch.rand_like(boxes), scores


class BranchesOnValues(ToyDetector):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return super().forward(images if images.amax() > 0 else -images)


class HasAnInfiniteLoss(ToyDetector):
    def loss(self, raw: Any, targets: Any, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        return {"total": super().loss(raw, targets)["total"] / targets.valid.sum()}  # no box: divided by zero


class ForgetsALayerInTheLoss(ToyDetector):
    def loss(self, raw: Any, targets: Any, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        return {"total": raw[0].square().mean()}


class HasNoTotal(ToyDetector):
    def loss(self, raw: Any, targets: Any, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        return {"sum": super().loss(raw, targets)["total"]}


class DecodesLogits(ToyDetector):
    def decode(self, outputs: Any, input_size: tuple[int, int] | None = None) -> Candidates:
        return Candidates(super().decode(outputs).boxes, outputs[1].logit() * 100)


class SwapsCorners(ToyDetector):
    def decode(self, outputs: Any, input_size: tuple[int, int] | None = None) -> Candidates:
        found = super().decode(outputs)
        return Candidates(found.boxes.roll(2, -1), found.scores)


class DecodesWithWeights(ToyDetector):
    def decode(self, outputs: Any, input_size: tuple[int, int] | None = None) -> Candidates:
        found = super().decode(outputs)
        return Candidates(found.boxes + self.boxes.bias.detach().mean(), found.scores)


class MeetsTheCpu(ToyDetector):
    def decode(self, outputs: Any, input_size: tuple[int, int] | None = None) -> Candidates:
        found = super().decode(outputs)
        return Candidates(found.boxes * torch.ones(4), found.scores)


class ReadsEachScore(ToyDetector):
    def loss(self, raw: Any, targets: Any, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        highest = max(float(score) for score in raw[1].detach().flatten() for _ in range(5))
        return {name: loss + 0 * highest for name, loss in super().loss(raw, targets).items()}


class CountsAColumnTwice(ToyDetector):
    output_parts = (OutputPart("boxes", 0, 0, 5), OutputPart("classes", 0, 4))


class NamesTooFewOutputs(ToyDetector):
    output_names = ("boxes",)


class DeclaresNoClassKeys(ToyDetector):
    def class_dependent_keys(self) -> frozenset[str]:
        return frozenset()


class GroupsAParameterTwice(ToyDetector):
    def parameter_groups(self, learning_rate: float, weight_decay: float, options: Options | None = None) -> Any:
        return super().parameter_groups(learning_rate, weight_decay) * 2


class LosesStateOnSaving(ToyDetector):
    def load_state_dict(self, state: Any, *args: Any, **kwargs: Any) -> Any:
        return None


class Writer(DatasetWriter):
    """One JSON list of the labels of each image."""

    def __init__(self, request: WriteRequest) -> None:
        super().__init__(request)
        self.rows: list[list[int]] = []

    @property
    def images_folder(self) -> Path:
        return self.request.folder

    def add(self, name: str, annotation: Annotation) -> None:
        self.rows.append(annotation.labels.tolist())

    def finish(self) -> WrittenSplit:
        path = self.request.folder / "labels.json"
        path.write_text(json.dumps(self.rows))
        return WrittenSplit(path)


class WritesTheFirstClassOnly(Writer):
    def add(self, name: str, annotation: Annotation) -> None:
        self.rows.append([0] * len(annotation.labels))


class Dataset(DetectionDataset):
    box = (2, 3, 10, 12)
    dtype: Any = np.uint8
    writer = Writer
    own_names = ("a", "b")

    def __init__(self, request: DatasetRequest) -> None:
        path = request.annotations_path
        self.class_names = request.class_names or self.own_names
        self.labels = [[self.class_names.index("b")]] * 2 if path is None else json.loads(path.read_text())
        self.channels = 4 if request.keep_alpha else 3

    def __len__(self) -> int:
        return 2

    def image_id(self, index: int) -> int:
        return index

    def annotation(self, index: int) -> Annotation:
        boxes = np.array([self.box], np.float32)
        areas = np.array([72], np.float32)
        labels = np.array(self.labels[index])
        return Annotation(self.image_id(index), None, 20, 30, boxes, labels, np.array([False]), areas)

    def read_image(self, index: int) -> np.ndarray:
        return np.full((20, 30, self.channels), index, self.dtype)


class IgnoresClassNames(Dataset):
    def __init__(self, request: DatasetRequest) -> None:
        super().__init__(dataclasses.replace(request, class_names=None))


class RenamesInsteadOfOrdering(Dataset):
    def __init__(self, request: DatasetRequest) -> None:
        super().__init__(request)
        self.labels = [[1]] * 2


class HoldsALambda(Dataset):
    def __init__(self, request: DatasetRequest) -> None:
        super().__init__(request)
        self.measure = lambda: 1


class DropsAlpha(Dataset):
    def read_image(self, index: int) -> np.ndarray:
        return super().read_image(index)[..., :3]


class LosesAClassInWriting(Dataset):
    writer = WritesTheFirstClassOnly


class GivesFloatImages(Dataset):
    dtype = np.float32


class HasABoxOutside(Dataset):
    box = (2, 3, 10, 22)


class HasAnEmptyBox(Dataset):
    box = (2, 3, 2, 12)


class RepeatsAnImageId(Dataset):
    def image_id(self, index: int) -> int:
        return 7


class HasALabelWithoutClass(Dataset):
    def __init__(self, request: DatasetRequest) -> None:
        super().__init__(request)
        self.labels = [[2]] * 2


class Flip(Transform):
    """Stretched to the network's size; left to right, half of the time."""

    def __init__(self, options: Options) -> None:
        pass

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        height, width = context.preprocess.size
        image = cv2.resize(sample.image, (width, height))
        boxes = sample.boxes * np.float32([width / sample.width, height / sample.height] * 2)
        if context.rng.random() < 0.5:
            boxes[:, [2, 0]] = width - boxes[:, [0, 2]]
            image = np.ascontiguousarray(image[:, ::-1])
        return Sample(image, boxes, sample.labels)


class LeavesTheSize(Flip):
    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        return sample


class GrowsWhenStrong(Flip):
    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        made = super().__call__(sample, context)
        return Sample(np.tile(made.image, (2, 2, 1)), made.boxes, made.labels) if context.strong else made


class WritesToItsArgument(Flip):
    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        sample.image[:] = 0
        return sample


class MovesTheBoxesInPlace(Flip):
    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        sample.boxes += 1
        return sample


class HasItsOwnRandomness(Flip):
    own = np.random.default_rng(0)

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        return Sample(sample.image + self.own.integers(1, 9, dtype=np.uint8), sample.boxes, sample.labels)


class PushesBoxesOutside(Flip):
    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        return Sample(sample.image, sample.boxes + 100, sample.labels)


class ReturnsFloats(Flip):
    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        return Sample(sample.image / 255, sample.boxes, sample.labels)


class DropsALabel(Flip):
    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        return Sample(sample.image, sample.boxes, sample.labels[1:])


class Constant(Scheduler):
    def __init__(self, length: ScheduleLength, options: Options) -> None:
        pass

    def learning_rate(self, step: int, base_lr: float) -> float:
        return base_lr


class CountsItsCalls(Constant):
    calls = 0

    def learning_rate(self, step: int, base_lr: float) -> float:
        self.calls += 1
        return base_lr / self.calls


class GoesNegative(Constant):
    def learning_rate(self, step: int, base_lr: float) -> float:
        return base_lr * (1 - step / 10)


class IsNotANumber(Constant):
    def learning_rate(self, step: int, base_lr: float) -> float:
        return float("nan")


class NeverBegins(Constant):
    def learning_rate(self, step: int, base_lr: float) -> float:
        return 0.0


class GoesAboveTheBase(Constant):
    def learning_rate(self, step: int, base_lr: float) -> float:
        return 2 * base_lr


class IgnoresTheBaseRate(Constant):
    def learning_rate(self, step: int, base_lr: float) -> float:
        return 1e-3


BACKENDS = ("ruler",)


class Board(DeployTarget):
    name = "component"
    latency: tuple[float | None, Any] = (None, "none")

    shift = 0.01

    def __init__(self, sections: TargetSections) -> None:
        self.sections = sections

    def quantize(
        self, model: Path, output: Path, calibration: Any, config: Any, progress: Any = None, evaluator: Any = None
    ) -> QuantizationResult:
        """Moves the last bias a little, which is all that the contract can see of int8."""
        if calibration is None or not calibration.count:
            raise StdetError("no images")
        try:
            found = onnx.load(model)
        except Exception as error:
            raise StdetError("no model") from error
        bias = next(c for c in found.graph.initializer if c.name == found.graph.node[-1].input[2])
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(self.shift), bias.name))
        record = {"calibration": {"fit_for_accuracy": self.fit(calibration)}}
        onnx.helper.set_model_props(found, {QUANTIZATION_KEY: json.dumps(record)})
        output.parent.mkdir(exist_ok=True)
        onnx.save(found, output)
        return QuantizationResult(record)

    def fit(self, calibration: Any) -> bool:
        return calibration.source != "random"

    def bench(self, model: Path, backend: str, progress: Any = None) -> BenchReport:
        if backend not in BACKENDS:
            raise StdetError(f"no backend {backend}", "use ruler")
        milliseconds, kind = self.latency
        return BenchReport(model.name, "", backend, "toy", "1", latency_ms=milliseconds, latency_kind=kind)


class CallsALatencyNone(Board):
    latency = (1.5, "none")


class TakesAnyBackend(Board):
    def bench(self, model: Path, backend: str, progress: Any = None) -> BenchReport:
        return super().bench(model, "ruler")


class ReportsWhatIsNoJson(Board):
    def bench(self, model: Path, backend: str, progress: Any = None) -> BenchReport:
        super().bench(model, backend)
        return BenchReport(model.name, "", backend, "toy", "1", details={"path": model})


class TakesNoiseForPhotographs(Board):
    def fit(self, calibration: Any) -> bool:
        return True


class AnswersSomethingElse(Board):
    shift = 10.0


class KeepsItsRecordToItself(Board):
    def quantize(self, *args: Any, **kwargs: Any) -> QuantizationResult:
        return QuantizationResult(super().quantize(*args, **kwargs).record | {"more": 1})


class LeavesHalfAFile(Board):
    def quantize(self, model: Path, output: Path, *args: Any, **kwargs: Any) -> QuantizationResult:
        output.parent.mkdir(exist_ok=True)
        output.write_bytes(b"half")
        return super().quantize(model, output, *args, **kwargs)


class QuantizesWithoutImages(Board):
    def quantize(self, model: Path, output: Path, *args: Any, **kwargs: Any) -> QuantizationResult:
        return QuantizationResult({})


class HasAnotherName(Board):
    name = "other"


class NeedsAnUndeclaredTool(Board):
    def bench(self, model: Path, backend: str, progress: Any = None) -> BenchReport:
        super().bench(model, backend)
        raise StdetError("ruler is not installed", "buy one")


class HidesItsBackends(Board):
    def bench(self, model: Path, backend: str, progress: Any = None) -> BenchReport:
        if backend not in BACKENDS:
            raise DataError("no")
        return super().bench(model, backend)


class Model(ModelContract):
    name = "component"
    waits = 20  # it goes through the boxes one by one


class Reader(DatasetContract):
    name = "component"

    def request(self, tmp_path: Path) -> DatasetRequest:
        return DatasetRequest("train")


class Recipe(TransformContract):
    name = "component"


class Schedule(SchedulerContract):
    name = "component"


class Target(TargetContract):
    name = "component"


CONTRACTS: dict[str, tuple[type[Contract], type, str]] = {
    "models": (Model, ToyDetector, "FAMILY"),
    "datasets": (Reader, Dataset, "READER"),
    "transforms": (Recipe, Flip, "RECIPE"),
    "schedulers": (Schedule, Constant, "SCHEDULE"),
    "targets": (Target, Board, "TARGET"),
}
"""Kind to its contract, a component that keeps it, and the name of its facts in the module."""
FORWARD = "forward_is_the_same_graph_in_training_and_evaluation"
LOSS = "losses_are_finite_and_reach_the_weights_with_and_without_boxes"
GPU = "a_gpu_computes_what_the_cpu_does_and_seldom_waits"
DECODED = "decoded_boxes_and_scores_have_their_shapes_and_ranges"
MEANS = "loss_and_decode_mean_the_same_boxes"
EXPORTS = "it_exports_to_onnx_and_answers_the_same"
COLOURS = "it_takes_images_of_every_colour_mode"
INT8 = "its_int8_form_can_be_simulated_and_trained"
NAMES = "its_recipe_and_its_schedule_exist"
TYPE = "its_model_type_is_its_own"
CLASSES = "only_the_declared_keys_depend_on_the_number_of_classes"
GROUPS = "the_parameter_groups_cover_every_parameter_once"
PARTS = "each_column_of_the_outputs_belongs_to_one_part"
ANNOTATIONS = "annotations_fit_their_images"
LABELS = "it_labels_by_the_classes_it_is_given"
WRITER = "the_formats_writer_if_it_has_one_gives_back_boxes_and_classes"
ARGUMENT = "the_argument_is_left_alone"
WELL_FORMED = "samples_stay_well_formed"
SIZE = "the_result_has_the_size_of_the_networks_input"
FINITE = "rates_are_finite_and_not_negative"
FOLLOW = "rates_follow_the_base_rate"
REPORTS = "every_backend_reports_what_its_latency_is"
ANSWERS = "quantizing_leaves_a_file_that_answers_like_the_float_one"
SAYS = "the_file_says_what_was_done"
REFUSES = "what_cannot_be_quantized_is_refused_and_leaves_no_file"
UNKNOWN = "an_unknown_backend_is_refused_with_the_known_ones"
LIGHT = "what_it_tells_the_config_layer_imports_nothing_heavy"
KEYS = "its_config_keys_are_not_taken"

COMPONENTS: list[tuple[str, type, str]] = [
    ("models", BranchesOnTraining, FORWARD),
    ("models", IsRandomInEvaluation, FORWARD),
    ("models", BranchesOnValues, INT8),
    ("models", SeesThreeChannels, COLOURS),
    ("models", HasAnInfiniteLoss, LOSS),
    ("models", ForgetsALayerInTheLoss, LOSS),
    ("models", HasNoTotal, LOSS),
    ("models", DecodesLogits, DECODED),
    ("models", SwapsCorners, DECODED),
    ("models", NamesTooFewOutputs, DECODED),
    ("models", TakesTargetsForCentres, MEANS),
    ("models", TakesTargetsForSizes, MEANS),
    ("models", DecodesShares, MEANS),
    ("models", DecodesRowsFirst, MEANS),
    ("models", DecodesClassesBackwards, MEANS),
    ("models", DecodesWithWeights, "decoding_needs_no_weights"),
    ("models", MeetsTheCpu, GPU),
    ("models", ReadsEachScore, GPU),
    ("models", CanNotBeExported, EXPORTS),
    ("models", ChangesWhatItExports, EXPORTS),
    ("models", KeepsAnotherSpec, EXPORTS),
    ("models", DeclaresNoClassKeys, CLASSES),
    ("models", GroupsAParameterTwice, GROUPS),
    ("models", LosesStateOnSaving, "the_state_dict_loads_back"),
    ("models", CountsAColumnTwice, PARTS),
    ("datasets", GivesFloatImages, ANNOTATIONS),
    ("datasets", HasABoxOutside, ANNOTATIONS),
    ("datasets", HasAnEmptyBox, ANNOTATIONS),
    ("datasets", RepeatsAnImageId, ANNOTATIONS),
    ("datasets", HasALabelWithoutClass, ANNOTATIONS),
    ("datasets", LosesAClassInWriting, WRITER),
    ("datasets", IgnoresClassNames, LABELS),
    ("datasets", RenamesInsteadOfOrdering, LABELS),
    ("datasets", HoldsALambda, "it_can_be_copied_into_worker_processes"),
    ("datasets", DropsAlpha, "alpha_is_kept_only_when_it_is_asked_for"),
    ("transforms", WritesToItsArgument, ARGUMENT),
    ("transforms", MovesTheBoxesInPlace, ARGUMENT),
    ("transforms", HasItsOwnRandomness, "the_generator_alone_decides"),
    ("transforms", LeavesTheSize, SIZE),
    ("transforms", GrowsWhenStrong, SIZE),
    ("transforms", PushesBoxesOutside, WELL_FORMED),
    ("transforms", ReturnsFloats, WELL_FORMED),
    ("transforms", DropsALabel, WELL_FORMED),
    ("schedulers", CountsItsCalls, "the_step_alone_decides"),
    ("schedulers", GoesNegative, FINITE),
    ("schedulers", IsNotANumber, FINITE),
    ("schedulers", NeverBegins, FINITE),
    ("schedulers", IgnoresTheBaseRate, FOLLOW),
    ("schedulers", GoesAboveTheBase, FOLLOW),
    ("targets", HasAnotherName, "it_has_the_name_it_is_registered_by"),
    ("targets", CallsALatencyNone, REPORTS),
    ("targets", ReportsWhatIsNoJson, REPORTS),
    ("targets", NeedsAnUndeclaredTool, REPORTS),
    ("targets", TakesAnyBackend, UNKNOWN),
    ("targets", HidesItsBackends, UNKNOWN),
    ("targets", AnswersSomethingElse, ANSWERS),
    ("targets", TakesNoiseForPhotographs, SAYS),
    ("targets", KeepsItsRecordToItself, SAYS),
    ("targets", LeavesHalfAFile, REFUSES),
    ("targets", QuantizesWithoutImages, REFUSES),
]
"""Kind, component with a fault, the contract test that must catch it."""

OPTIONS = "class Keys({0}):\n    {1}: int = 1\n"
FACT_FAULTS: list[tuple[str, str, str, str]] = [
    ("models", "UnknownRecipe", "FAMILY = dataclasses.replace(FAMILY, augmentation='yolo')", NAMES),
    ("models", "UnknownSchedule", "FAMILY = dataclasses.replace(FAMILY, scheduler='cosinus')", NAMES),
    ("models", "OurModelType", "FAMILY = dataclasses.replace(FAMILY, model_type='ssd')", TYPE),
    ("models", "TorchInTheFamily", "import torch", LIGHT),
    ("datasets", "MatplotlibInTheReadersFacts", "import matplotlib", LIGHT),
    ("schedulers", "FactsThatEndTheProcess", "import os; 'planted' in sys.argv or os._exit(3)", LIGHT),
    (
        "models",
        "ShadowsEpochs",
        OPTIONS.format("Options", "epochs") + "FAMILY = dataclasses.replace(FAMILY, training_options=Keys)",
        KEYS,
    ),
    (
        "models",
        "ShadowsInputShape",
        OPTIONS.format("Options", "input_shape") + "FAMILY = dataclasses.replace(FAMILY, model_options=Keys)",
        KEYS,
    ),
    ("transforms", "ShadowsBatchSize", OPTIONS.format("RecipeOptions", "class_names") + "RECIPE = Keys", KEYS),
    ("schedulers", "ShadowsSeed", OPTIONS.format("Options", "fp16") + "SCHEDULE = Keys", KEYS),
    (
        "datasets",
        "ShadowsPaths",
        OPTIONS.format("Options", "dataset_name") + "READER = ReaderFacts(options=Keys)",
        KEYS,
    ),
    (
        "targets",
        "DefaultsToABackendItLacks",
        "TARGET = TargetFacts(backends=('ruler',), default_backends=('rule',))",
        "default_backends_need_no_tool",
    ),
]
"""Kind, name, what is appended to the facts' module, the contract test that must catch it."""

Check = Callable[..., None]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Check:
    """Runs one test of the contract of a kind on a component."""

    def run(kind: str, component: type, test: str, more: str = "") -> None:
        contract, _, facts = CONTRACTS[kind]
        (tmp_path / "planted_facts.py").write_text(f"import dataclasses, sys\n{FACTS}\n{more}\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "planted_facts", raising=False)
        monkeypatch.setattr(sys, "argv", ["planted"])
        module = ModuleType("planted")
        module.Component = component  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "planted", module)
        field = {"models": "family", "datasets": "facts", "targets": "facts"}.get(kind, "options")
        named = {field: f"planted_facts:{facts}"} | (
            {"writer": "planted:Component.writer"} if kind == "datasets" else {}
        )
        entries = [Entry(kind, "component", "planted:Component", "", "acme", "1", **named)]
        if "model_type" in more:
            entries += load_plugins()[0].entries("models")
        catalogue = Catalogue(entries, installed={"acme", *known().distributions} if len(entries) > 1 else {"acme"})
        for name in ("contract", "dataset", "model", "scheduler", "target", "transform"):
            monkeypatch.setattr(f"stdet.testing.{name}.catalogue", lambda: catalogue)
        method = getattr(contract(), f"test_{test}")
        method(tmp_path) if "tmp_path" in method.__code__.co_varnames else method()

    return run


GOOD = [
    (kind, component, name.removeprefix("test_"))
    for kind, (contract, component, _) in CONTRACTS.items()
    for name in dir(contract)
    if name.startswith("test_")
]


@pytest.mark.parametrize(("kind", "component", "test"), GOOD)
def test_a_component_that_keeps_its_contract_passes(check: Check, kind: str, component: type, test: str) -> None:
    check(kind, component, test)


@pytest.mark.parametrize(("kind", "component", "test"), COMPONENTS, ids=[fault[1].__name__ for fault in COMPONENTS])
def test_a_planted_fault_is_caught_by_name_with_what_was_found(
    check: Check, kind: str, component: type, test: str
) -> None:
    with pytest.raises(BrokenContract, match=rf"(?s)expected: \S.*found: .*read: .*test_{test}"):
        check(kind, component, test)


@pytest.mark.parametrize(("kind", "name", "more", "test"), FACT_FAULTS, ids=[fault[1] for fault in FACT_FAULTS])
def test_a_planted_fault_of_the_facts_is_caught(check: Check, kind: str, name: str, more: str, test: str) -> None:
    with pytest.raises(BrokenContract, match=f"test_{test}"):
        check(kind, CONTRACTS[kind][1], test, more)


def test_every_contract_test_has_a_fault_that_it_catches() -> None:
    planted = {(kind, test) for kind, _, test in COMPONENTS} | {(kind, test) for kind, _, _, test in FACT_FAULTS}
    shared = {name.removeprefix("test_") for name in vars(Contract) if name.startswith("test_")}
    assert {(k, t) for k, _, t in GOOD if t not in shared} == {(k, t) for k, t in planted if t not in shared}
    assert shared == {t for _, t in planted if t in shared}


def test_a_tool_that_is_missing_is_no_fault_where_it_is_declared(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "needs_tools", frozenset({"ruler"}))
    check("targets", NeedsAnUndeclaredTool, REPORTS, "TARGET = TargetFacts(backends=('ruler',))")


def test_a_family_may_declare_that_int8_can_not_be_simulated(check: Check) -> None:
    check("models", BranchesOnValues, INT8, "FAMILY = dataclasses.replace(FAMILY, quantization_aware=False)")


def test_every_demand_is_stated_in_the_docs_with_its_reason() -> None:
    page = (Path(__file__).parents[4] / "docs" / "contracts.md").read_text(encoding="utf-8")
    for contract in (Contract, *(c.__base__ for c, _, _ in CONTRACTS.values())):
        for name, test in vars(contract).items():
            if name.startswith("test_"):
                assert f"- `{name}`: {' '.join((inspect.getdoc(test) or '').split())}\n" in page, name
