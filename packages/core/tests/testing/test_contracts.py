"""The contract tests themselves: each fault is planted in a small component, and its contract must refuse it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from stdet.errors import DataError, ModelError, StdetError
from stdet.export.metadata import QUANTIZATION_KEY
from stdet.interfaces.dataset import DatasetRequest, DatasetWriter, DetectionDataset, WriteRequest, WrittenSplit
from stdet.interfaces.deploy import BenchReport, DeployTarget, QuantizationResult
from stdet.interfaces.detector import Candidates, Detector, OutputPart
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.scheduler import ScheduleLength, Scheduler
from stdet.interfaces.target import TargetFacts, TargetSections
from stdet.interfaces.transform import Transform, TransformContext
from stdet.registry import Catalogue, Entry
from stdet.structures import Annotation, DetectorSpec, Preprocess, Sample
from stdet.testing import (
    DatasetContract,
    ModelContract,
    SchedulerContract,
    TargetContract,
    TransformContract,
    contracts,
)

FAMILY = ModelFamily("toy", "toy", Preprocess(32, 32), "yolox", "cosine", False, 32, 32, "toy", (32,))


class ToyDetector(Detector):
    """One anchor a 32-pixel cell; keeps the contract."""

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
        return {"total": raw[0].square().mean() + raw[1].square().mean()}

    def export_outputs(self, raw: Any) -> tuple[Tensor, ...]:
        return raw[0].flatten(2).transpose(1, 2), raw[1].flatten(2).transpose(1, 2).sigmoid()

    def decode(self, outputs: Any, input_size: tuple[int, int] | None = None) -> Candidates:
        corner, size = outputs[0][..., :2], outputs[0][..., 2:].abs()
        return Candidates(torch.cat([corner, corner + size], -1), outputs[1])

    def class_dependent_keys(self) -> frozenset[str]:
        return frozenset({"scores.weight", "scores.bias"})


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
    class_names = ("a", "b")
    box = (2, 3, 10, 12)
    dtype: Any = np.uint8
    writer = Writer

    def __init__(self, request: DatasetRequest) -> None:
        path = request.annotations_path
        self.labels = json.loads(path.read_text()) if path else [[1], [1]]

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
        return np.zeros((20, 30, 3), self.dtype)


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
    class_names = ("a",)


class Flip(Transform):
    """Left to right, half of the time."""

    def __init__(self, options: Options) -> None:
        pass

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        if context.rng.random() < 0.5:
            return sample
        boxes = sample.boxes.copy()
        boxes[:, [2, 0]] = sample.width - sample.boxes[:, [0, 2]]
        return Sample(sample.image[:, ::-1], boxes, sample.labels)


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


class IgnoresTheBaseRate(Constant):
    def learning_rate(self, step: int, base_lr: float) -> float:
        return 1e-3


FACTS = TargetFacts(backends=("ruler",), default_backends=("ruler",))


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
        if backend not in FACTS.backends:
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


class HidesItsBackends(Board):
    def bench(self, model: Path, backend: str, progress: Any = None) -> BenchReport:
        if backend not in FACTS.backends:
            raise DataError("no")
        return super().bench(model, backend)


class Model(ModelContract):
    name = "component"


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


CONTRACTS: dict[str, tuple[type, type]] = {
    "models": (Model, ToyDetector),
    "datasets": (Reader, Dataset),
    "transforms": (Recipe, Flip),
    "schedulers": (Schedule, Constant),
    "targets": (Target, Board),
}
FORWARD = "forward_is_the_same_graph_in_training_and_evaluation"
LOSS = "losses_are_finite_and_reach_the_weights_with_and_without_boxes"
DECODED = "decoded_boxes_and_scores_have_their_shapes_and_ranges"
ANNOTATIONS = "annotations_fit_their_images"
WRITER = "the_formats_writer_if_it_has_one_gives_back_boxes_and_classes"
ARGUMENT = "the_argument_is_left_alone"
WELL_FORMED = "samples_stay_well_formed"
RATES = "rates_are_finite_scale_with_the_base_and_depend_on_the_step_alone"
REPORTS = "every_backend_reports_what_its_latency_is"
QUANTIZES = "quantizing_leaves_a_file_that_answers_like_the_float_one_and_says_what_it_is"
REFUSES = "a_model_that_cannot_be_quantized_is_refused_and_leaves_no_file"
PARTS = "each_column_of_the_outputs_belongs_to_one_part"
UNKNOWN = "an_unknown_backend_is_refused_with_the_known_ones"

FAULTS: list[tuple[str, type, str, type[Exception]]] = [
    ("models", BranchesOnTraining, FORWARD, AssertionError),
    ("models", IsRandomInEvaluation, FORWARD, AssertionError),
    ("models", BranchesOnValues, "its_int8_form_can_be_simulated_and_trained", ModelError),
    ("models", SeesThreeChannels, "it_takes_images_of_every_colour_mode", RuntimeError),
    ("models", HasAnInfiniteLoss, LOSS, AssertionError),
    ("models", ForgetsALayerInTheLoss, LOSS, AssertionError),
    ("models", HasNoTotal, LOSS, KeyError),
    ("models", DecodesLogits, DECODED, AssertionError),
    ("models", SwapsCorners, DECODED, AssertionError),
    ("models", NamesTooFewOutputs, DECODED, AssertionError),
    ("models", DecodesWithWeights, "decoding_needs_no_weights", RuntimeError),
    ("models", DeclaresNoClassKeys, "only_the_declared_keys_depend_on_the_number_of_classes", AssertionError),
    ("models", GroupsAParameterTwice, "the_parameter_groups_cover_every_parameter_once", AssertionError),
    ("models", LosesStateOnSaving, "the_state_dict_loads_back", AssertionError),
    ("datasets", GivesFloatImages, ANNOTATIONS, AssertionError),
    ("datasets", HasABoxOutside, ANNOTATIONS, AssertionError),
    ("datasets", HasAnEmptyBox, ANNOTATIONS, AssertionError),
    ("datasets", RepeatsAnImageId, ANNOTATIONS, AssertionError),
    ("datasets", HasALabelWithoutClass, ANNOTATIONS, AssertionError),
    ("datasets", LosesAClassInWriting, WRITER, AssertionError),
    ("transforms", WritesToItsArgument, ARGUMENT, AssertionError),
    ("transforms", MovesTheBoxesInPlace, ARGUMENT, AssertionError),
    ("transforms", HasItsOwnRandomness, "the_generator_alone_decides", AssertionError),
    ("transforms", PushesBoxesOutside, WELL_FORMED, AssertionError),
    ("transforms", ReturnsFloats, WELL_FORMED, AssertionError),
    ("transforms", DropsALabel, WELL_FORMED, AssertionError),
    ("schedulers", CountsItsCalls, RATES, AssertionError),
    ("schedulers", GoesNegative, RATES, AssertionError),
    ("schedulers", IsNotANumber, RATES, AssertionError),
    ("schedulers", IgnoresTheBaseRate, RATES, AssertionError),
    ("targets", CallsALatencyNone, REPORTS, AssertionError),
    ("targets", ReportsWhatIsNoJson, REPORTS, TypeError),
    ("targets", TakesAnyBackend, UNKNOWN, AssertionError),
    ("targets", HidesItsBackends, UNKNOWN, AssertionError),
    ("targets", TakesNoiseForPhotographs, QUANTIZES, AssertionError),
    ("targets", AnswersSomethingElse, QUANTIZES, AssertionError),
    ("targets", KeepsItsRecordToItself, QUANTIZES, AssertionError),
    ("targets", LeavesHalfAFile, REFUSES, AssertionError),
    ("targets", QuantizesWithoutImages, REFUSES, AssertionError),
    ("models", CountsAColumnTwice, PARTS, AssertionError),
]
"""Kind, component, the contract test that must catch it, and how."""

Check = Callable[..., None]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Check:
    """Runs one test of the contract of a kind on a component."""

    def run(kind: str, component: type, test: str) -> None:
        module = ModuleType("planted")
        module.Component, module.FAMILY, module.FACTS = component, FAMILY, FACTS  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "planted", module)
        entry = Entry(
            kind,
            "component",
            "planted:Component",
            "",
            "acme",
            "1",
            facts="planted:FACTS" if kind == "targets" else None,
            family="planted:FAMILY",
            writer="planted:Component.writer",
        )
        catalogue = Catalogue([entry])
        monkeypatch.setattr(contracts, "_catalogue", lambda: catalogue)
        method = getattr(CONTRACTS[kind][0](), f"test_{test}")
        method(tmp_path) if "tmp_path" in method.__code__.co_varnames else method()

    return run


GOOD = [
    (kind, component, name.removeprefix("test_"))
    for kind, (contract, component) in CONTRACTS.items()
    for name in dir(contract)
    if name.startswith("test_")
]


@pytest.mark.parametrize(("kind", "component", "test"), GOOD)
def test_a_component_that_keeps_its_contract_passes(check: Check, kind: str, component: type, test: str) -> None:
    check(kind, component, test)


@pytest.mark.parametrize(("kind", "component", "test", "error"), FAULTS, ids=[fault[1].__name__ for fault in FAULTS])
def test_a_planted_fault_is_caught(check: Check, kind: str, component: type, test: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        check(kind, component, test)


def test_every_contract_test_has_a_fault_that_it_catches() -> None:
    assert {(kind, test) for kind, _, test in GOOD} == {(kind, test) for kind, _, test, _ in FAULTS}
