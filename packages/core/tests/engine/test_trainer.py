"""The loop: a resumed run equals an uninterrupted one bit for bit, a stop leaves a file to go on from, best is best."""

from __future__ import annotations

import io
import math
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from stdet.data.loader import TrainLoader
from stdet.data.preprocess import normalize
from stdet.engine.checkpoint import read_checkpoint
from stdet.engine.optimizers import make_optimizer
from stdet.engine.schedule_options import YoloxWarmCosOptions
from stdet.engine.schedules import YoloxWarmCos
from stdet.engine.trainer import Trainer, TrainSettings
from stdet.errors import ArtifactError, Interrupted, ModelError
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Candidates, Detector, Targets
from stdet.interfaces.reporter import SilentReporter
from stdet.interfaces.scheduler import ScheduleLength
from stdet.interfaces.transform import Transform, TransformContext
from stdet.nn.precision import choose_precision
from stdet.structures import Annotation, DetectorSpec, Preprocess, Sample
from stdet.tracking import Trackers

SPEC = DetectorSpec("tiny", "tiny", ("a",), Preprocess(16, 16), "none", (16,))


class TinyDetector(Detector):
    """Predicts one box an image from the mean of its features; enough to have weights, BatchNorm and a loss."""

    output_names = ("output",)

    def __init__(self) -> None:
        super().__init__()
        self.spec = SPEC
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.head(self.features(images / 255).mean((2, 3))),)

    def loss(self, raw: Sequence[Tensor], targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        total = ((raw[0] - targets.boxes[:, 0] / 16) ** 2).mean() * (2.0 if augmentation_closed else 1.0)
        return {"total": total, "closed": torch.tensor(float(augmentation_closed))}

    def export_outputs(self, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(raw)

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        return Candidates(outputs[0][:, None], torch.ones(len(outputs[0]), 1, 1))

    def class_dependent_keys(self) -> frozenset[str]:
        return frozenset()


class NoiseDataset(DetectionDataset):
    """Twenty random images with a box each."""

    class_names = ("a",)

    def __len__(self) -> int:
        return 20

    def annotation(self, index: int) -> Annotation:
        box = np.array([[index % 5, index % 3, 8 + index % 8, 10]], np.float32)
        one = np.ones(1)
        return Annotation(index, None, 16, 16, box, np.zeros(1, np.int64), np.zeros(1, bool), one.astype(np.float32))

    def read_image(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 255, (16, 16, 3), np.uint8)


class Jitter(Transform):
    """Random brightness, so that a sample depends on its generator."""

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        factor = context.rng.uniform(0.5, 1.0)
        return Sample((sample.image * factor).astype(np.uint8), sample.boxes, sample.labels)


def make_trainer(
    folder: Path, evaluate: Any = None, make_detector: Callable[[], Detector] = TinyDetector, **changes: Any
) -> Trainer:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"epochs": 4, "no_aug_epochs": 1, "eval_interval": 1}
    settings = TrainSettings(**(defaults | changes))
    detector = make_detector()
    loader = TrainLoader(
        NoiseDataset(),
        Jitter(),
        SPEC.preprocess,
        batch_size=4,
        seed=7,
        epochs=settings.epochs,
        no_aug_epochs=settings.no_aug_epochs,
        num_workers=0,
    )
    steps = math.ceil(len(loader) / settings.accumulate)
    length = ScheduleLength(settings.epochs, steps, settings.no_aug_epochs)
    return Trainer(
        detector,
        loader,
        make_optimizer("SGD", detector.parameter_groups(0.05, 1e-4), {"momentum": 0.9, "nesterov": True}),
        YoloxWarmCos(length, YoloxWarmCosOptions()),
        evaluate or (lambda model: {"AP": 0.5, "AP50": 0.6}),
        choose_precision("cpu", False),
        settings,
        folder,
        Trackers(),
        SilentReporter(),
    )


def stop_at_step(trainer: Trainer, step: int) -> None:
    """Send the process a Ctrl-C in the middle of optimizer step `step` (counted from 1)."""
    done = 0
    original = trainer._optimizer_step

    def counted(group: Any) -> Any:
        nonlocal done
        done += 1
        if done == step:
            os.kill(os.getpid(), signal.SIGINT)
        return original(group)

    trainer._optimizer_step = counted  # type: ignore[method-assign]


def assert_same_weights(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("stop", [1, 5, 7, 20])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema": False},
        {"accumulate": 2},
        {"quantization_aware": "Int8"},
        {"quantization_aware": "Int4", "ema": False},
    ],
    ids=["ema", "no-ema", "accumulate", "int8", "int4-no-ema"],
)
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, stop: int, options: dict[str, Any]) -> None:
    whole = make_trainer(tmp_path / "whole", **options)
    whole.fit()
    stop = min(stop, whole.steps_per_epoch * 4)
    interrupted = make_trainer(tmp_path / "first", **options)
    stop_at_step(interrupted, stop)
    with pytest.raises(Interrupted, match="resume_training_from="):
        interrupted.fit()
    resumed = make_trainer(tmp_path / "second", **options)
    torch.rand(3)  # the generators are somewhere else now
    resumed.resume(tmp_path / "first" / "latest_ckpt.pth")
    resumed.fit()
    assert_same_weights(resumed.detector.state_dict(), whole.detector.state_dict())
    final, expected = (read_checkpoint(tmp_path / run / "latest_ckpt.pth") for run in ("second", "whole"))
    assert_same_weights(final["model"], expected["model"])
    assert final["ema_updates"] == expected["ema_updates"]
    if options.get("quantization_aware"):
        assert_same_weights(final["simulation"], expected["simulation"])
    assert torch.equal(final["generators"]["torch"], expected["generators"]["torch"])


def test_the_weights_change_and_the_loss_falls(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epochs=30)
    history = trainer.fit().history
    assert history[-2]["total"] < 0.5 * history[0]["total"]


def test_the_augmentation_closes_exactly_for_the_last_epochs(tmp_path: Path) -> None:
    history = make_trainer(tmp_path, epochs=5, no_aug_epochs=2).fit().history
    assert [row["closed"] for row in history] == [0, 0, 0, 1, 1]


def test_the_best_epoch_is_kept_although_later_ones_are_worse(tmp_path: Path) -> None:
    scores = iter([0.1, 0.7, 0.3, 0.2])
    result = make_trainer(tmp_path, lambda model: {"AP": next(scores), "AP50": 0.9}, save_history=True).fit()
    assert (result.best_epoch, result.best_score) == (2, 0.7)
    assert_same_weights(read_checkpoint(result.best)["model"], read_checkpoint(tmp_path / "epoch_2_ckpt.pth")["model"])
    assert read_checkpoint(result.best)["epoch"] == 2


def test_the_best_weights_come_along_into_the_resumed_run(tmp_path: Path) -> None:
    scores = iter([0.9, 0.1])
    first = make_trainer(tmp_path / "first", lambda model: {"AP": next(scores), "AP50": 0.9})
    stop_at_step(first, 8)
    with pytest.raises(Interrupted):
        first.fit()
    second = make_trainer(tmp_path / "second", lambda model: {"AP": 0.2, "AP50": 0.2})
    second.resume(tmp_path / "first" / "latest_ckpt.pth")
    result = second.fit()
    assert result.best_score == 0.9
    assert read_checkpoint(result.best)["epoch"] == 1


def test_a_kill_during_evaluation_loses_no_step(tmp_path: Path) -> None:
    def killed(model: Detector) -> Mapping[str, float]:
        raise SystemError("killed")

    with pytest.raises(SystemError):
        make_trainer(tmp_path / "first", killed).fit()
    resumed = make_trainer(tmp_path / "second")
    resumed.resume(tmp_path / "first" / "latest_ckpt.pth")
    assert (resumed.epoch, resumed.step) == (0, resumed.steps_per_epoch)
    resumed.fit()
    whole = make_trainer(tmp_path / "whole")
    whole.fit()
    assert_same_weights(resumed.detector.state_dict(), whole.detector.state_dict())


def test_a_loss_that_is_not_a_number_stops_the_run_and_says_where(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    with torch.no_grad():
        trainer.detector.head.weight.fill_(math.nan)
    with pytest.raises(ModelError, match="epoch 1, step 1"):
        trainer.fit()


def test_a_checkpoint_of_another_run_is_refused_with_the_differences(tmp_path: Path) -> None:
    make_trainer(tmp_path / "first", epochs=1).fit()
    other = make_trainer(tmp_path / "second", ema=False)
    with pytest.raises(ArtifactError, match="ema: True there, False here"):
        other.resume(tmp_path / "first" / "latest_ckpt.pth")


def test_a_float_training_is_not_resumed_as_a_quantization_aware_one_nor_the_other_way_round(tmp_path: Path) -> None:
    make_trainer(tmp_path / "float", epochs=1).fit()
    make_trainer(tmp_path / "int8", epochs=1, quantization_aware="Int8").fit()
    for kind, folder, said in (("Int8", "float", "None there, Int8 here"), (None, "int8", "Int8 there, None here")):
        with pytest.raises(ArtifactError, match=f"quantization_aware: {said}"):
            make_trainer(tmp_path / "x", quantization_aware=kind).resume(tmp_path / folder / "latest_ckpt.pth")


@pytest.mark.parametrize("ema", [True, False])
def test_quantization_aware_training_judges_the_simulated_model_and_saves_the_float_one(
    ema: bool, tmp_path: Path
) -> None:
    images, outputs = torch.rand(2, 3, 16, 16) * 255, []

    def judge(model: Detector) -> Mapping[str, float]:
        with torch.no_grad():
            outputs.append(model.eval()(images)[0])
        return {"AP": 0.5, "AP50": 0.6}

    trainer = make_trainer(tmp_path, judge, quantization_aware="Int4", epochs=1, no_aug_epochs=0, ema=ema)
    saved = TinyDetector().eval()
    saved.load_state_dict(read_checkpoint(trainer.fit().best)["model"])
    assert trainer.simulation is not None
    with torch.no_grad():
        assert torch.equal(outputs[0], trainer.simulation.of(saved)(images)[0])
        assert not torch.allclose(outputs[0], saved(images)[0], atol=1e-3)


class DepthwiseDetector(TinyDetector):
    """Its thin layers suffer from 4-bit weights."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Conv2d(3, 16, 3, 2), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 1)
        self.features = nn.Sequential(
            *(part for conv in layers for part in (conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()))
        )
        self.head = nn.Linear(32, 4)


class AllImages(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self.batches = iter([{"input": images}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def squared_errors(detector: Detector, folder: Path) -> tuple[float, float]:
    """Of the boxes of NoiseDataset: by the float detector, and by what onnxruntime's quantizer makes of it in 4 bits."""
    data = NoiseDataset()
    pixels = np.stack([data.read_image(i).transpose(2, 0, 1) for i in range(len(data))])
    images = normalize(pixels, SPEC.preprocess).astype(np.float32)
    boxes = np.stack([data.annotation(i).boxes[0] for i in range(len(data))]) / 16
    buffer = io.BytesIO()
    torch.onnx.export(
        detector.eval(),
        (torch.from_numpy(images),),
        buffer,
        input_names=["input"],
        opset_version=17,
        dynamo=False,
    )
    quantize_static(
        onnx.version_converter.convert_version(onnx.load_from_string(buffer.getvalue()), 21),
        folder / "int4.onnx",
        AllImages(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt4,
        extra_options={"ForceQuantizeNoInputCheck": True},
    )
    session = onnxruntime.InferenceSession(folder / "int4.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        floating = detector(torch.from_numpy(images))[0].numpy()
    quantized = session.run(None, {"input": images})[0]
    return float(np.square(floating - boxes).mean()), float(np.square(quantized - boxes).mean())


def test_fine_tuning_with_4_bit_weights_simulated_regains_what_rounding_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jitter, "__call__", lambda self, sample, context: sample)  # learns the images by heart

    def train(epochs: int, start: Detector | None = None, **options: Any) -> Detector:
        folder, options = tmp_path / str(len(list(tmp_path.iterdir()))), options | {"epochs": epochs, "ema": False}
        trainer = make_trainer(folder, None, DepthwiseDetector, no_aug_epochs=0, eval_interval=epochs, **options)
        if start is not None:
            trainer.detector.load_state_dict(start.state_dict())
        trainer.fit()
        return trainer.detector

    trained = train(80)
    floating, rounded = squared_errors(trained, tmp_path)
    assert rounded > 4 * floating
    _, fine_tuned = squared_errors(train(30, trained, quantization_aware="Int4"), tmp_path)
    _, trained_longer = squared_errors(train(30, trained), tmp_path)
    assert fine_tuned < 0.5 * rounded
    assert fine_tuned < 0.5 * trained_longer  # it isn't the mere training that helps


def test_start_epoch_overrides_the_epoch_of_the_checkpoint(tmp_path: Path) -> None:
    make_trainer(tmp_path / "first", epochs=4).fit()
    again = make_trainer(tmp_path / "second", epochs=4)
    again.resume(tmp_path / "first" / "latest_ckpt.pth", start_epoch=3)
    assert len(again.fit().history) == 4 + 1


def test_accumulating_two_batches_equals_one_batch_of_twice_the_size_without_batch_norm(tmp_path: Path) -> None:
    class Plain(TinyDetector):
        def __init__(self) -> None:
            super().__init__()
            self.features[1] = nn.Identity()

    def run(batch_size: int, accumulate: int) -> Tensor:
        trainer = make_trainer(tmp_path / f"b{batch_size}", accumulate=accumulate, epochs=1, no_aug_epochs=0, ema=False)
        torch.manual_seed(1)
        trainer.detector = trainer.network = Plain()
        trainer.loader = TrainLoader(
            NoiseDataset(),
            Jitter(),
            SPEC.preprocess,
            batch_size=batch_size,
            seed=7,
            epochs=1,
            no_aug_epochs=0,
            num_workers=0,
        )
        trainer.steps_per_epoch = math.ceil(len(trainer.loader) / accumulate)
        trainer.optimizer = make_optimizer("SGD", trainer.detector.parameter_groups(0.05, 0.0), {})
        trainer.scheduler = YoloxWarmCos(
            ScheduleLength(1, trainer.steps_per_epoch), YoloxWarmCosOptions(warmup_epochs=0)
        )
        trainer.fit()
        return trainer.detector.head.weight.detach().clone()

    torch.testing.assert_close(run(10, 1), run(5, 2), rtol=1e-4, atol=1e-6)
