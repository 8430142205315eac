"""The loop: a resumed run equals an uninterrupted one bit for bit, a stop leaves a file to go on from, best is best."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn

from stdet.data.loader import Batch, TrainLoader
from stdet.data.preprocess import normalize
from stdet.engine.callbacks import Callback, ClipGradNorm, EarlyStopping, TimeBudget
from stdet.engine.checkpoint import read_checkpoint
from stdet.engine.losses import FiniteWatch, read_back
from stdet.engine.optimizers import make_optimizer
from stdet.engine.schedule_options import YoloxWarmCosOptions
from stdet.engine.schedules import YoloxWarmCos
from stdet.engine.trainer import Trainer, TrainSettings
from stdet.errors import ArtifactError, DataError, Interrupted, ModelError, PeerLost
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Candidates, Detector, Targets
from stdet.interfaces.reporter import Reporter, SilentReporter
from stdet.interfaces.scheduler import ScheduleLength
from stdet.interfaces.transform import Transform, TransformContext
from stdet.nn.distributed import rank
from stdet.nn.precision import Precision, choose_precision
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
    folder: Path,
    evaluate: Any = None,
    make_detector: Callable[[], Detector] = TinyDetector,
    *,
    optimizer: str = "SGD",
    rate: float = 0.05,
    batch_size: int = 4,
    precision: Precision | None = None,
    reporter: Reporter | None = None,
    callbacks: Sequence[Callback] = (),
    num_workers: int = 0,
    **changes: Any,
) -> Trainer:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"epochs": 4, "no_aug_epochs": 1, "eval_interval": 1}
    settings = TrainSettings(**(defaults | changes))
    detector = make_detector()
    loader = TrainLoader(
        NoiseDataset(),
        Jitter(),
        SPEC.preprocess,
        batch_size=batch_size,
        seed=7,
        epochs=settings.epochs,
        no_aug_epochs=settings.no_aug_epochs,
        num_workers=num_workers,
    )
    steps = math.ceil(len(loader) / settings.accumulate)
    length = ScheduleLength(settings.epochs, steps, settings.no_aug_epochs)
    return Trainer(
        detector,
        loader,
        make_optimizer(
            optimizer,
            detector.parameter_groups(rate, 1e-4),
            {"momentum": 0.9, "nesterov": True} if optimizer == "SGD" else {},
        ),
        YoloxWarmCos(length, YoloxWarmCosOptions()),
        evaluate or (lambda model: {"AP": 0.5, "AP50": 0.6}),
        precision or choose_precision("cpu", False),
        settings,
        folder,
        Trackers(),
        reporter or SilentReporter(),
        callbacks,
    )


def stop_at_step(trainer: Trainer, step: int, number: signal.Signals = signal.SIGINT) -> None:
    """Send the process a Ctrl-C, or another signal, in the middle of optimizer step `step` (counted from 1)."""
    done = 0
    original = trainer._optimizer_step

    def counted(group: Any) -> Any:
        nonlocal done
        done += 1
        if done == step:
            os.kill(os.getpid(), number)
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
    with pytest.raises(Interrupted, match=r"saved .*latest_ckpt\.pth"):
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
    assert resumed.history == whole.history  # losses included


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


def lose_batch(trainer: Trainer, number: int, error: Exception, then: Callable[[], None] = lambda: None) -> None:
    """Let the loader fail at batch `number` of the training."""
    original, left = trainer.loader.epoch, iter(range(number))

    def epoch(*which: Any) -> Iterator[Batch]:
        for batch in original(*which):
            if next(left, None) is None:
                then()
                raise error
            yield batch

    trainer.loader.epoch = epoch  # type: ignore[method-assign]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_that_cannot_be_had_costs_no_step(tmp_path: Path, accumulate: int) -> None:
    broken = make_trainer(tmp_path / "first", accumulate=accumulate)
    lose_batch(broken, 8, DataError("cannot decode a.jpg", "replace it"))
    with pytest.raises(DataError, match="cannot decode"):
        broken.fit()
    resumed, whole = (make_trainer(tmp_path / name, accumulate=accumulate) for name in ("second", "whole"))
    resumed.resume(tmp_path / "first" / "latest_ckpt.pth")
    assert (resumed.epoch, resumed.step) == (1, 3 // accumulate)
    resumed.fit()
    whole.fit()
    assert_same_weights(resumed.detector.state_dict(), whole.detector.state_dict())


def test_a_worker_that_a_stop_ends_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for when in ("before", "after"):  # its end is seen before the signal comes here, or after
        trainer = make_trainer(tmp_path / when)
        later = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        then = later.start if when == "before" else lambda: os.kill(os.getpid(), signal.SIGTERM)
        lose_batch(trainer, 2, PeerLost("a data worker ended with SIGTERM"), then)
        with pytest.raises(Interrupted, match="step 2 of 5"):
            trainer.fit()
        assert read_checkpoint(tmp_path / when / "latest_ckpt.pth")["step"] == 2


def test_a_validation_that_is_stopped_is_a_stop(tmp_path: Path) -> None:
    def stopped(model: Detector) -> Mapping[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        assert trainer.stop_requested()
        raise Interrupted("stopped while evaluating")

    trainer = make_trainer(tmp_path, stopped)
    with pytest.raises(Interrupted, match=r"step 5 of 5; saved"):
        trainer.fit()


def test_the_workers_end_with_the_training(tmp_path: Path) -> None:
    others = set(multiprocessing.active_children())
    crews: list[set[Any]] = []

    def evaluate(model: Detector) -> Mapping[str, float]:
        crews.append(set(multiprocessing.active_children()) - others)
        return {"AP": 0.5, "AP50": 0.6}

    history = make_trainer(tmp_path, evaluate, num_workers=2, epochs=2, no_aug_epochs=0).fit().history
    assert crews[0] == crews[1]  # the same in both epochs
    assert len(crews[0]) == 2
    assert not crews[0] & set(multiprocessing.active_children())
    assert history == make_trainer(tmp_path / "alone", epochs=2, no_aug_epochs=0).fit().history


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
    assert [row["epoch"] for row in again.fit().history] == [1, 2, 3, 4]  # none of them twice


class LossOfItsRank(Callback):
    def after_step(self, trainer: Trainer) -> None:
        trainer.losses.sums["total"] = torch.tensor(float(rank() + 1) * trainer.losses.steps)


def mean_losses(folder: Path) -> float:
    return make_trainer(folder, epochs=1, no_aug_epochs=0, callbacks=[LossOfItsRank()]).fit().history[0]["total"]


def test_the_history_has_the_losses_of_all_processes(tmp_path: Path, training_in_two: InTwo) -> None:
    assert training_in_two(mean_losses, tmp_path) == [1.5, 1.5]


def test_accumulating_two_batches_equals_one_batch_of_twice_the_size_without_batch_norm(tmp_path: Path) -> None:
    class Plain(TinyDetector):
        def __init__(self) -> None:
            super().__init__()
            self.features[1] = nn.Identity()

    def run(batch_size: int, accumulate: int) -> Tensor:
        options = {"batch_size": batch_size, "accumulate": accumulate, "epochs": 1, "no_aug_epochs": 0, "ema": False}
        trainer = make_trainer(tmp_path / f"b{batch_size}", None, Plain, **options)
        trainer.fit()
        return trainer.detector.head.weight.detach().clone()

    torch.testing.assert_close(run(10, 1), run(5, 2), rtol=1e-4, atol=1e-6)


# --- what happens to a training ----------------------------------------------------------------------------------------


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.shown: list[Mapping[str, float]] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def progress(self, label: str, done: int, total: int | None, values: Mapping[str, float] | None = None) -> None:
        self.shown.append(values or {})


def with_scaler(scale: float = 4.0) -> Precision:
    return Precision("cpu", None, torch.amp.GradScaler("cpu", enabled=True, init_scale=scale), "float16, say")


@pytest.mark.parametrize("to_float16", [True, False])
def test_a_run_goes_on_in_another_precision_and_says_so(to_float16: bool, tmp_path: Path) -> None:
    before, after = (choose_precision("cpu", False), with_scaler())[:: 1 if to_float16 else -1]
    make_trainer(tmp_path / "first", epochs=4, precision=before).fit()
    notes = Notes()
    second = make_trainer(tmp_path / "second", epochs=4, precision=after, reporter=notes)
    second.resume(tmp_path / "first" / "latest_ckpt.pth", start_epoch=3)
    second.fit()
    assert f"the precision changes: {before.description} before, {after.description} from here on" in notes.notes


def test_the_scale_of_the_loss_comes_along(tmp_path: Path) -> None:
    make_trainer(tmp_path / "first", epochs=1, precision=with_scaler(32.0)).fit()
    second = make_trainer(tmp_path / "second", epochs=1, precision=with_scaler())
    second.resume(tmp_path / "first" / "latest_ckpt.pth")
    assert second.precision.scaler.get_scale() == 32.0


@pytest.mark.parametrize("name", ["Adam", "NAdam", "RMSprop", "Adafactor", "Rprop", "ASGD"])
def test_any_optimizer_goes_on_with_the_same_bits(name: str, tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole", epochs=2, optimizer=name)
    whole.fit()
    interrupted = make_trainer(tmp_path / "first", epochs=2, optimizer=name)
    stop_at_step(interrupted, 3)
    with pytest.raises(Interrupted):
        interrupted.fit()
    resumed = make_trainer(tmp_path / "second", epochs=2, optimizer=name)
    resumed.resume(tmp_path / "first" / "latest_ckpt.pth")
    resumed.fit()
    assert_same_weights(resumed.detector.state_dict(), whole.detector.state_dict())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": "Adam"}, "optimizer: SGD there, Adam here"),
        ({"rate": 0.01}, "optimizer learning_rate: 0.05 there, 0.01 here"),
        ({"batch_size": 5, "accumulate": 1}, "images per step: 4 there, 5 here"),
    ],
)
def test_settings_that_a_checkpoint_would_silently_overrule_are_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    make_trainer(tmp_path / "first", epochs=1).fit()
    with pytest.raises(ArtifactError, match=said):
        make_trainer(tmp_path / "second", epochs=4, **changes).resume(tmp_path / "first" / "latest_ckpt.pth")


def test_people_are_told_the_score_of_each_evaluation_and_the_best_at_the_end(tmp_path: Path) -> None:
    notes, scores = Notes(), iter([0.1, 0.7, 0.3])
    trainer = make_trainer(tmp_path, lambda m: {"AP": next(scores), "AP50": 0.9}, epochs=3, reporter=notes)
    trainer.fit()
    assert notes.notes == [
        "epoch 1/3: AP 0.1000, AP50 0.9000 (the best so far)",
        "epoch 2/3: AP 0.7000, AP50 0.9000 (the best so far)",
        "epoch 3/3: AP 0.3000, AP50 0.9000 (best AP 0.7000 in epoch 2)",
        f"best AP 0.7000 in epoch 2: {tmp_path / 'best_ckpt.pth'}",
    ]
    assert all("best AP" not in values for values in notes.shown)  # on the line of a step it would be an old one


def test_callbacks_are_called_at_their_points(tmp_path: Path) -> None:
    seen: list[str] = []

    class Watching(Callback):
        def before_update(self, trainer: Trainer) -> None:
            seen.append(f"gradients {trainer.detector.head.weight.grad is not None}")

        def after_step(self, trainer: Trainer) -> None:
            seen.append(f"step {trainer.step}")

        def after_epoch(self, trainer: Trainer) -> None:
            seen.append(f"epoch {len(trainer.history)}")

        def after_evaluation(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
            seen.append(f"{metrics['AP']} {trainer.history[-1]['AP']} {trainer.best_epoch}")

    make_trainer(tmp_path, epochs=1, callbacks=[Watching()]).fit()
    steps = [line for n in range(1, 6) for line in ("gradients True", f"step {n}")]
    assert seen == [*steps, "epoch 0", "0.5 0.5 1"]


@pytest.mark.parametrize("precision", [choose_precision("cpu", False), with_scaler()], ids=["float32", "scaled"])
def test_gradients_are_clipped_by_their_norm_and_not_by_that_of_the_scaled_loss(
    precision: Precision, tmp_path: Path
) -> None:
    norms: list[float] = []

    class Norm(Callback):
        def before_update(self, trainer: Trainer) -> None:
            gradients = [p.grad for p in trainer.detector.parameters() if p.grad is not None]
            norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in gradients)))

    make_trainer(tmp_path, epochs=1, precision=precision, callbacks=[Norm(), ClipGradNorm(0.1), Norm()]).fit()
    before, after = norms[::2], norms[1::2]
    assert max(before) > 0.1
    assert after == pytest.approx([min(0.1, norm) for norm in before], rel=1e-4)


def test_early_stopping_counts_evaluations_without_a_better_score_also_over_a_resume(tmp_path: Path) -> None:
    scores = iter([0.5, 0.6, 0.4, 0.6, 0.1, 0.9])

    def evaluate(model: Detector) -> Mapping[str, float]:
        return {"AP": next(scores)}

    options: dict[str, Any] = {"epochs": 20, "callbacks": [EarlyStopping(3)]}
    first = make_trainer(tmp_path / "first", evaluate, **options)
    stop_at_step(first, 18)
    with pytest.raises(Interrupted):
        first.fit()
    notes = Notes()
    second = make_trainer(tmp_path / "second", evaluate, reporter=notes, **options)
    second.resume(tmp_path / "first" / "latest_ckpt.pth")
    result = second.fit()
    assert (len(result.history), result.best_epoch) == (5, 2)
    assert "training ends with epoch 5 of 20: no better AP in 3 evaluations (training.early_stopping)" in notes.notes
    assert read_checkpoint(result.latest)["ending"]


def test_a_time_budget_begins_no_epoch_that_it_does_not_hold_and_evaluates_the_last(tmp_path: Path) -> None:
    clock = iter([0.0, 0.0, 10.0, 25.0, 35.0, 45.0, 60.0])
    budget = TimeBudget(45.0, lambda: next(clock))
    notes = Notes()
    result = make_trainer(tmp_path, epochs=9, eval_interval=9, callbacks=[budget], reporter=notes).fit()
    assert len(result.history) == 3  # at 35 of 45 seconds, and an epoch may take 15
    assert result.best_epoch == 3
    assert "time_budget" in notes.notes[-2]


class Hungry(TinyDetector):
    """Holds `most` images in memory, and has no batch norm: its gradients don't depend on how a batch is divided."""

    most = 2

    def __init__(self) -> None:
        super().__init__()
        self.features[1] = nn.Identity()

    def loss(self, raw: Sequence[Tensor], targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        if len(raw[0]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 planets")
        return super().loss(raw, targets, augmentation_closed=augmentation_closed)


@pytest.mark.parametrize("most", [2, 1])
def test_out_of_memory_divides_the_batches_says_so_and_learns_the_same(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    monkeypatch.setattr(Hungry, "most", 99)
    whole = make_trainer(tmp_path / "whole", make_detector=Hungry, epochs=2, no_aug_epochs=0)
    whole.fit()
    monkeypatch.setattr(Hungry, "most", most)
    divided = make_trainer(tmp_path / "divided", make_detector=Hungry, epochs=2, no_aug_epochs=0, reporter=notes)
    history = divided.fit().history
    said = [note for note in notes.notes if "out of memory" in note]
    assert said == [
        f"out of memory: each batch is computed in {n} parts now, for one step as before" for n in (2, 4)[: 3 - most]
    ]
    torch.testing.assert_close(divided.detector.state_dict(), whole.detector.state_dict(), rtol=1e-4, atol=1e-6)
    assert history[-1]["total"] == pytest.approx(whole.history[-1]["total"], rel=1e-4)
    assert read_checkpoint(tmp_path / "divided" / "latest_ckpt.pth")["parts"] == 4 // most


def test_memory_that_holds_no_image_is_the_users_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "most", 0)
    with pytest.raises(ModelError, match="out of memory on cpu") as caught:
        make_trainer(tmp_path, make_detector=Hungry).fit()
    assert "batch_size" in caught.value.hint


class NormOfOne(TinyDetector):
    def forward(self, images: Tensor) -> Any:
        nn.functional.batch_norm(images.mean((2, 3), keepdim=True), None, None, training=True)
        return super().forward(images)


def test_batch_norm_of_a_single_value_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="single image") as caught:
        make_trainer(tmp_path, make_detector=NormOfOne, batch_size=1).fit()
    assert "batch_size" in caught.value.hint


def test_another_error_of_the_model_is_not_taken_for_lack_of_memory(tmp_path: Path) -> None:
    class Broken(TinyDetector):
        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        make_trainer(tmp_path, make_detector=Broken).fit()


def test_the_batch_of_a_loss_that_is_not_finite_is_saved_and_named(tmp_path: Path) -> None:
    class Poisoned(TinyDetector):
        steps = 0

        def loss(self, raw: Any, targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
            self.steps += 1
            losses = super().loss(raw, targets, augmentation_closed=augmentation_closed)
            return {**losses, "total": losses["total"] * (math.inf if self.steps == 8 else 1.0)}

    trainer = make_trainer(tmp_path, make_detector=Poisoned)
    with pytest.raises(ModelError, match="epoch 2, step 3") as caught:
        trainer.fit()
    saved = read_checkpoint(tmp_path / "not_finite.pth")
    batches = list(trainer.loader.epoch(1))
    assert torch.equal(saved["batches"][0]["images"], batches[2].images)
    assert saved["indices"] == batches[2].indices
    assert ", ".join(map(str, batches[2].indices)) in caught.value.message
    assert read_checkpoint(tmp_path / "latest_ckpt.pth")["epoch"] == 1


class _OnGpu(Tensor):
    """Says that it is on a GPU."""

    is_cuda = True  # type: ignore[assignment]


def test_on_a_gpu_a_loss_is_looked_at_one_step_late_and_before_an_epoch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def record(self) -> None: ...

        def synchronize(self) -> None: ...

    monkeypatch.setattr(torch.cuda, "Event", Event)
    good, bad = (torch.tensor(value).as_subclass(_OnGpu) for value in (1.0, math.nan))
    watch = FiniteWatch()
    assert [watch.push(good, 1), watch.push(bad, 2), watch.push(good, 3), watch.settle()] == [None, None, 2, None]
    watch.push(bad, 4)
    assert [watch.settle(), watch.settle()] == [4, None]


def test_losses_are_fetched_from_the_device_when_they_are_reported_and_once_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []

    def counting(scalars: Mapping[str, Tensor]) -> dict[str, float]:
        fetched.append(len(scalars))
        return read_back(scalars)

    monkeypatch.setattr("stdet.engine.trainer.read_back", counting)
    monkeypatch.setattr("stdet.engine.losses.read_back", counting)
    make_trainer(tmp_path, epochs=2, print_interval=3).fit()
    assert len(fetched) == 2 * (2 + 1)  # of five steps the third and the last, then the sums of the epoch


def test_a_closed_terminal_leaves_a_checkpoint_unless_nohup_wants_to_go_on(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "closed")
    stop_at_step(trainer, 3, signal.SIGHUP)
    with pytest.raises(Interrupted, match="step 3 of 5"):
        trainer.fit()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer = make_trainer(tmp_path / "nohup", epochs=1)
        stop_at_step(trainer, 3, signal.SIGHUP)
        assert len(trainer.fit().history) == 1
    finally:
        signal.signal(signal.SIGHUP, before)


InTwo = Callable[[Callable[[Path], Any], Path], list[Any]]


class PoisonedInOne(TinyDetector):
    """Its loss in the second process is no number in the third step."""

    steps = 0

    def loss(self, raw: Any, targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        self.steps += 1
        losses = super().loss(raw, targets, augmentation_closed=augmentation_closed)
        return {**losses, "total": losses["total"] * (math.nan if self.steps == 3 and rank() == 1 else 1.0)}


def train_poisoned(folder: Path) -> None:
    make_trainer(folder, make_detector=PoisonedInOne).fit()


def test_a_loss_that_is_not_finite_in_one_process_ends_all_of_them_together(
    tmp_path: Path, training_in_two: InTwo
) -> None:
    first, second = training_in_two(train_poisoned, tmp_path)
    assert "the loss of another process is no longer finite in epoch 1" in first.message
    assert "no longer finite in epoch 1, step 3; its batch is in" in second.message
    assert [path.name for path in tmp_path.iterdir()] == ["not_finite_1.pth"]


class GoneInOne(Callback):
    def after_step(self, trainer: Trainer) -> None:
        if rank() == 1 and trainer.step == 3:
            raise SystemExit(0)  # its connections close, as when it is killed


def train_until_one_is_gone(folder: Path) -> None:
    make_trainer(folder, epochs=2, no_aug_epochs=0, callbacks=[GoneInOne()]).fit()


def test_the_loss_of_another_process_costs_no_step(tmp_path: Path, training_in_two: InTwo) -> None:
    first, _ = training_in_two(train_until_one_is_gone, tmp_path)
    assert first.message == "another process failed"
    assert read_checkpoint(tmp_path / "latest_ckpt.pth")["step"] == 3


class TiredInOne(Callback):
    def after_evaluation(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        if rank() == 1:
            trainer.finish("tired")


def train_tired(folder: Path) -> int:
    return len(make_trainer(folder, callbacks=[TiredInOne()]).fit().history)


def test_a_callback_that_ends_the_training_in_one_process_ends_it_in_all(
    tmp_path: Path, training_in_two: InTwo
) -> None:
    assert training_in_two(train_tired, tmp_path) == [1, 1]
