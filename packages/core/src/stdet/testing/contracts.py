"""The contracts of the five kinds of components, as classes that pytest collects from a subclass."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from functools import cache
from typing import Any, ClassVar

import numpy as np
import onnx
import torch

from stdet.errors import StdetError
from stdet.export.metadata import QUANTIZATION_KEY
from stdet.export.onnx import simplify
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset, WriteRequest
from stdet.interfaces.deploy import CalibrationData, DeployTarget
from stdet.interfaces.detector import Detector, Targets
from stdet.interfaces.family import ModelFamily, Options
from stdet.interfaces.scheduler import ScheduleLength
from stdet.interfaces.target import Quantization, TargetFacts, TargetSections
from stdet.interfaces.transform import Transform, TransformContext
from stdet.nn.int8_training import Int8Simulation
from stdet.plugins.loader import load_plugins
from stdet.registry import Catalogue
from stdet.structures import ColorMode, Preprocess, Sample


@cache
def _catalogue() -> Catalogue:
    return load_plugins()[0]


class ModelContract:
    """What every registered model must do. Set `name`."""

    name: ClassVar[str]

    def family(self) -> ModelFamily:
        family = _catalogue().family(self.name)
        assert isinstance(family, ModelFamily)
        return family

    def size(self) -> tuple[int, int]:
        """A small input size that the family allows, not square."""
        family = self.family()
        unit = max(family.size_multiple, 32)
        height = -(-family.min_size // unit) * unit
        return height, height + unit

    def build(self, num_classes: int = 3, preprocess: Preprocess | None = None) -> Detector:
        family, classes = self.family(), tuple(f"class_{i}" for i in range(num_classes))
        spec = family.spec(self.name, classes, preprocess or family.preprocess.with_size(*self.size()))
        torch.manual_seed(0)
        detector = _catalogue().build("models", self.name, spec)
        assert isinstance(detector, Detector)
        assert detector.spec == spec
        return detector

    def images(self, detector: Detector, count: int = 2) -> torch.Tensor:
        """float32 (count, C, H, W) of noise, -1..1; the same each time."""
        torch.manual_seed(1)
        return torch.rand(count, detector.spec.preprocess.channels, *self.size()) * 2 - 1

    def targets(self, boxes_in_first: int) -> Targets:
        """Two images; the second one is empty."""
        height, width = self.size()
        rows = max(1, boxes_in_first)
        boxes, labels = torch.zeros(2, rows, 4), torch.full((2, rows), -1)
        for row in range(boxes_in_first):
            boxes[0, row] = torch.tensor([0.1 * width, 0.2 * height, (0.5 + 0.1 * row) * width, 0.8 * height])
            labels[0, row] = row % 3
        return Targets(boxes, labels)

    def test_the_state_dict_loads_back(self) -> None:
        one, other = self.build(), self.build()
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.add_(0.01)
        other.load_state_dict(one.state_dict())
        for key, value in other.state_dict().items():
            assert torch.equal(value, one.state_dict()[key]), key

    def test_forward_is_the_same_graph_in_training_and_evaluation(self) -> None:
        detector = self.build()
        images = self.images(detector)
        with torch.no_grad():
            training, evaluation = detector.train()(images), detector.eval()(images)
            assert [t.shape for t in training] == [t.shape for t in evaluation]
            assert all(map(torch.equal, evaluation, detector(images)))

    def test_it_takes_images_of_every_colour_mode(self) -> None:
        modes: tuple[tuple[ColorMode, int], ...] = (("rgb", 3), ("bgr", 3), ("grayscale", 1), ("rgba", 4))
        for mode, channels in modes:
            usual = self.family().preprocess.with_size(*self.size())
            mean, std = usual.mean[:1] * channels, usual.std[:1] * channels
            detector = self.build(preprocess=dataclasses.replace(usual, color_mode=mode, mean=mean, std=std)).eval()
            with torch.no_grad():
                raw = detector(self.images(detector))
            assert all(tensor.isfinite().all() for tensor in raw), mode

    def test_its_int8_form_can_be_simulated_and_trained(self) -> None:
        """See `stdet.nn.int8_training`: what is simulated is the same network, rounded."""
        detector = self.build()
        images = self.images(detector)
        simulated = Int8Simulation(detector, "Int8").of(detector)
        with torch.no_grad():
            simulated.train()(images)  # sees the ranges
            expected = detector.eval().export_outputs(detector(images))
            rounded = simulated.eval().export_outputs(simulated(images))
        for one, other in zip(expected, rounded, strict=True):
            assert not torch.equal(one, other)
            assert float((one - other).norm() / one.norm()) < 0.1
        simulated.train().loss(simulated(images), self.targets(2))["total"].backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.parameters())

    def test_losses_are_finite_and_reach_the_weights_with_and_without_boxes(self) -> None:
        for boxes in (2, 0):
            for closed in (False, True):
                detector = self.build().train()
                losses = detector.loss(detector(self.images(detector)), self.targets(boxes), augmentation_closed=closed)
                assert all(value.numel() == 1 and math.isfinite(float(value.detach())) for value in losses.values())
                losses["total"].backward()
                gradients = {key: p.grad for key, p in detector.named_parameters() if p.requires_grad}
                assert all(g is None or torch.isfinite(g).all() for g in gradients.values())
                unreached = [key for key, gradient in gradients.items() if gradient is None]
                assert not (boxes and unreached), unreached
                assert len(unreached) < len(gradients)

    def test_decoded_boxes_and_scores_have_their_shapes_and_ranges(self) -> None:
        for num_classes in (1, 3):
            detector = self.build(num_classes).eval()
            with torch.no_grad():
                outputs = detector.export_outputs(detector(self.images(detector)))
                assert len(outputs) == len(set(detector.output_names)) == len(detector.output_names)
                found = detector.decode(outputs)
            count = found.boxes.shape[1]
            assert found.boxes.shape == (2, count, 4)
            assert found.scores.shape == (2, count, num_classes)
            assert float(found.scores.min()) >= 0
            assert float(found.scores.max()) <= 1
            assert bool((found.boxes[..., 2:] >= found.boxes[..., :2]).all())

    def test_each_column_of_the_outputs_belongs_to_one_part(self) -> None:
        detector = self.build().eval()
        with torch.no_grad():
            outputs = detector.export_outputs(detector(self.images(detector)))
        covered = [torch.zeros(output.shape[-1]) for output in outputs]
        for part in detector.parts():
            covered[part.output][part.columns] += 1
        assert all(bool((columns == 1).all()) for columns in covered)
        assert len({part.name for part in detector.parts()}) == len(detector.parts())

    def test_decoding_needs_no_weights(self) -> None:
        detector = self.build().eval()
        with torch.no_grad():
            outputs = detector.export_outputs(detector(self.images(detector)))
        with torch.device("meta"):
            decoder = self.build()
        expected, found = detector.decode(outputs), decoder.decode(outputs)
        torch.testing.assert_close(found.boxes, expected.boxes)
        torch.testing.assert_close(found.scores, expected.scores)

    def test_only_the_declared_keys_depend_on_the_number_of_classes(self) -> None:
        one, other = self.build(1).state_dict(), self.build(3).state_dict()
        assert {key for key in one if one[key].shape != other[key].shape} == self.build().class_dependent_keys()

    def test_the_parameter_groups_cover_every_parameter_once(self) -> None:
        detector = self.build()
        groups = detector.parameter_groups(0.1, 0.01, self.family().training_options())
        ids = [id(p) for group in groups for p in group["params"]]
        assert sorted(ids) == sorted(id(p) for p in detector.parameters() if p.requires_grad)
        assert all({"params", "lr", "weight_decay"} <= group.keys() for group in groups)


class DatasetContract:
    """What every reader must do. Set `name` and return a request for some images in `request`."""

    name: ClassVar[str]

    def request(self, tmp_path: Any) -> DatasetRequest:
        """Where a small data set is; make it in `tmp_path` if need be.

        Raises:
            NotImplementedError: the contract's user gives none.
        """
        raise NotImplementedError

    def test_annotations_fit_their_images(self, tmp_path: Any) -> None:
        dataset = _catalogue().build("datasets", self.name, self.request(tmp_path))
        assert isinstance(dataset, DetectionDataset)
        assert len(dataset) > 0
        ids = set()
        for index in range(min(len(dataset), 8)):
            a, image = dataset.annotation(index), dataset.read_image(index)
            ids.add(a.image_id)
            assert image.dtype == np.uint8
            assert image.shape == (a.height, a.width, 3)
            count = len(a.labels)
            assert a.boxes.shape == (count, 4)
            assert a.boxes.dtype == np.float32
            assert len(a.ignore) == len(a.areas) == count
            assert all(0 <= label < len(dataset.class_names) for label in a.labels)
            assert np.all(a.boxes[:, 2:] > a.boxes[:, :2])
            assert np.all(a.boxes >= 0)
            assert np.all(a.boxes <= [a.width, a.height] * 2)
            assert len(dataset.sample(index).labels) == int((~a.ignore).sum())
        assert len(ids) == min(len(dataset), 8)

    def test_the_formats_writer_if_it_has_one_gives_back_boxes_and_classes(self, tmp_path: Any) -> None:
        if _catalogue().entry("datasets", self.name).writer is None:
            return
        dataset = _catalogue().build("datasets", self.name, self.request(tmp_path))
        folder = tmp_path / "written"
        folder.mkdir()
        writer = _catalogue().writer(self.name)(WriteRequest(folder, "train", dataset.class_names))
        writer.images_folder.mkdir(parents=True, exist_ok=True)
        for index in range(len(dataset)):
            path = dataset.annotation(index).path
            if path is not None:
                (writer.images_folder / path.name).write_bytes(path.read_bytes())
            writer.add(path.name if path else f"{index}.png", dataset.annotation(index))
        done = writer.finish()
        assert done.annotations_path.is_relative_to(folder)
        request = DatasetRequest(
            "train", writer.images_folder, done.annotations_path, done.split_path, dataset.class_names
        )
        again = _catalogue().build("datasets", self.name, request)
        assert len(again) == len(dataset)
        for index in range(len(dataset)):
            one, other = dataset.annotation(index), again.annotation(index)
            assert np.allclose(one.boxes, other.boxes, atol=1e-4)
            assert one.labels.tolist() == other.labels.tolist()


class TransformContract:
    """What every transform must do. Set `name`."""

    name: ClassVar[str]

    def apply(self, seed: int, strong: bool = True, boxes: int = 2) -> tuple[Sample, Sample, Sample]:
        """A copy of the argument as it was before, the result, and the argument as it is afterwards."""
        options = _catalogue().options("transforms", self.name)
        transform = _catalogue().build("transforms", self.name, options())
        assert isinstance(transform, Transform)

        def sample(number: int) -> Sample:
            rng = np.random.default_rng(number)
            corners = rng.uniform(5, 40, (boxes, 2))
            xyxy = np.hstack([corners, corners + rng.uniform(15, 50, (boxes, 2))]).astype(np.float32)
            return Sample(rng.integers(0, 255, (90, 120, 3), np.uint8), xyxy, np.arange(boxes))

        rng = np.random.default_rng(seed)
        context = TransformContext(
            rng, lambda: sample(int(rng.integers(100))), Preprocess(96, 128, "letterbox"), strong
        )
        source = sample(0)
        return (
            Sample(source.image.copy(), source.boxes.copy(), source.labels.copy()),
            transform(source, context),
            source,
        )

    def test_the_generator_alone_decides(self) -> None:
        one, same = self.apply(3)[1], self.apply(3)[1]
        assert np.array_equal(one.image, same.image)
        assert np.array_equal(one.boxes, same.boxes)

    def test_samples_stay_well_formed(self) -> None:
        for seed in range(6):
            for strong in (True, False):
                for boxes in (2, 0):
                    made = self.apply(seed, strong, boxes)[1]
                    assert made.image.dtype == np.uint8
                    assert made.image.ndim == 3
                    assert made.boxes.shape == (len(made.labels), 4)
                    assert np.all(made.boxes[:, 2:] > made.boxes[:, :2])
                    assert np.all(made.boxes >= 0)
                    assert np.all(made.boxes <= [made.width, made.height] * 2)

    def test_the_argument_is_left_alone(self) -> None:
        for strong in (True, False):
            before, _, after = self.apply(1, strong)
            assert np.array_equal(before.image, after.image)
            assert np.array_equal(before.boxes, after.boxes)
            assert np.array_equal(before.labels, after.labels)


class SchedulerContract:
    """What every schedule must do. Set `name`, and `options` if it has required keys."""

    name: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}

    def test_rates_are_finite_scale_with_the_base_and_depend_on_the_step_alone(self) -> None:
        made = _catalogue().options("schedulers", self.name)(**self.options)
        assert isinstance(made, Options)
        length = ScheduleLength(epochs=6, steps_per_epoch=5, no_aug_epochs=2)
        schedule = _catalogue().build("schedulers", self.name, length, made)
        rates = [schedule.learning_rate(step, 0.1) for step in range(length.total_steps)]
        assert all(math.isfinite(rate) and 0 <= rate <= 0.1 + 1e-12 for rate in rates)
        assert max(rates) > 0.05
        assert [schedule.learning_rate(step, 0.1) for step in reversed(range(length.total_steps))] == rates[::-1]


class TargetContract:
    """What every deploy target must do. Set `name`."""

    name: ClassVar[str]
    backends_tested_elsewhere: ClassVar[frozenset[str]] = frozenset()
    """Those that need tools which may be missing, or minutes."""

    def facts(self) -> TargetFacts:
        facts = _catalogue().target(self.name)
        assert isinstance(facts, TargetFacts)
        return facts

    def quantization(self) -> Quantization:
        """The `quantization` section as it is when a config says nothing."""
        section = self.facts().section("quantization")()
        assert isinstance(section, Quantization)
        return section

    def build(self) -> DeployTarget:
        target = _catalogue().build("targets", self.name, TargetSections())
        assert isinstance(target, DeployTarget)
        return target

    def model(self, tmp_path: Any) -> Any:
        """A small float ONNX model."""
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1))
        path = tmp_path / "small.onnx"
        buffer = io.BytesIO()
        example = (torch.zeros(1, 3, 16, 16),)
        torch.onnx.export(network.eval(), example, buffer, dynamo=False, opset_version=17)  # type: ignore[arg-type]
        path.write_bytes(simplify(buffer.getvalue()).SerializeToString())
        return path

    def test_every_backend_reports_what_its_latency_is(self, tmp_path: Any) -> None:
        target = self.build()
        assert target.name == self.name
        model = self.model(tmp_path)
        facts = self.facts()
        assert set(facts.default_backends) <= set(facts.backends)
        for backend in set(facts.backends) - self.backends_tested_elsewhere:
            report = target.bench(model, backend)
            json.dumps(dataclasses.asdict(report))
            assert report.backend == backend
            assert (report.latency_ms is None) == (report.latency_kind == "none")

    def calibration(self, source: str = "noise", count: int = 4) -> CalibrationData:
        """Seeded images for `model`."""

        def image(index: int) -> np.ndarray:
            return np.random.default_rng(index).normal(0, 1, (1, 3, 16, 16)).astype(np.float32)

        return CalibrationData(image, count, "0" * 64, source)

    def test_quantizing_leaves_a_file_that_answers_like_the_float_one_and_says_what_it_is(self, tmp_path: Any) -> None:
        target = self.build()
        model = self.model(tmp_path)
        for source, fit in (("noise", True), ("random", False)):
            output = tmp_path / source / "int8.onnx"
            result = target.quantize(model, output, self.calibration(source), self.quantization())
            stored = {p.key: p.value for p in onnx.load(output).metadata_props}[QUANTIZATION_KEY]
            assert json.loads(stored) == json.loads(json.dumps(result.record))
            assert result.record["calibration"]["fit_for_accuracy"] is fit
            import onnxruntime

            sessions = [
                onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in (model, output)
            ]
            name = sessions[0].get_inputs()[0].name
            image = next(iter(self.calibration().batches()))
            real, approximate = (session.run(None, {name: image})[0] for session in sessions)
            noise, signal = np.square(real - approximate).sum(), np.square(real - real.mean()).sum()
            assert 0 < noise < 0.03 * signal

    def test_a_model_that_cannot_be_quantized_is_refused_and_leaves_no_file(self, tmp_path: Any) -> None:
        target = self.build()
        model, output = self.model(tmp_path), tmp_path / "out" / "int8.onnx"
        (tmp_path / "broken.onnx").write_bytes(b"no model")
        for wrong, calibration in (
            (model, self.calibration(count=0)),
            (model, None),
            (tmp_path / "broken.onnx", self.calibration()),
        ):
            try:
                target.quantize(wrong, output, calibration, self.quantization())
            except StdetError:
                assert not output.exists()
            else:
                raise AssertionError("something was quantized that can't be")

    def test_an_unknown_backend_is_refused_with_the_known_ones(self, tmp_path: Any) -> None:
        target = self.build()
        try:
            target.bench(self.model(tmp_path), "no_such_backend")
        except StdetError as error:
            assert all(backend in str(error) for backend in self.facts().backends)
        else:
            raise AssertionError("an unknown backend was accepted")
