"""The training loop, meant to be read in one sitting."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stdet.data.loader import Batch, TrainLoader
from stdet.data.preprocess import normalize
from stdet.engine.checkpoint import (
    generator_states,
    read_checkpoint,
    restore_generators,
    save_checkpoint,
)
from stdet.engine.interrupt import stop_requests
from stdet.errors import ArtifactError, Interrupted, ModelError
from stdet.interfaces.detector import Detector
from stdet.interfaces.reporter import Reporter
from stdet.interfaces.scheduler import Scheduler
from stdet.interfaces.tracker import Tracker
from stdet.nn.distributed import any_rank, average_buffers, is_main, world_size
from stdet.nn.ema import ModelEma
from stdet.nn.int8_training import Int8Simulation
from stdet.nn.precision import Precision

log = logging.getLogger(__name__)

Evaluate = Callable[[Detector], Mapping[str, float]]
"""Scores a detector on the validation images: metric name to value, 0..1. `AP` (or the first entry) decides which
epoch is best."""


@dataclass(frozen=True)
class TrainSettings:
    """What the loop needs to know beyond the objects it is given.

    Attributes:
        epochs: passes over the training images.
        eval_interval: evaluate after every so many epochs, and after the last.
        print_interval: report the losses every so many optimizer steps.
        accumulate: batches whose gradients make one optimizer step.
        no_aug_epochs: final epochs without strong augmentation.
        ema: keep an exponential moving average of the weights, and evaluate, save and export that.
        channels_last: memory layout of activations and weights; faster on CPU, same numbers but for rounding.
        compile: run the network through torch.compile.
        save_history: keep a checkpoint of every evaluated epoch.
        quantization_aware: type of the weights (`Int8`, `Int4`) of the int8 form that training and evaluation simulate,
            see `stdet.nn.int8_training`; None for float. The checkpoints hold float weights in either case.
        device: torch device.
    """

    epochs: int
    eval_interval: int = 1
    print_interval: int = 50
    accumulate: int = 1
    no_aug_epochs: int = 0
    ema: bool = True
    channels_last: bool = True
    compile: bool = False
    save_history: bool = False
    quantization_aware: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class TrainResult:
    """Attributes:
    best: checkpoint of the best evaluated epoch: the weights to export.
    latest: checkpoint of the last finished epoch: the one to resume from.
    best_score, best_epoch: of `best`; epochs count from 1.
    history: one dict an epoch: epoch, learning rate, mean losses, metrics when evaluated.
    seconds: wall time of this call.
    """

    best: Path
    latest: Path
    best_score: float
    best_epoch: int
    history: list[dict[str, float]]
    seconds: float


class Trainer:
    """Trains a detector and leaves `best_ckpt.pth`, `latest_ckpt.pth` and, if asked, `epoch_<n>_ckpt.pth` in `folder`."""

    def __init__(
        self,
        detector: Detector,
        loader: TrainLoader,
        optimizer: torch.optim.Optimizer,
        scheduler: Scheduler,
        evaluate: Evaluate,
        precision: Precision,
        settings: TrainSettings,
        folder: Path,
        tracker: Tracker,
        reporter: Reporter,
    ) -> None:
        self.detector = detector
        self.loader = loader
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.evaluate = evaluate
        self.precision = precision
        self.settings = settings
        self.folder = folder
        self.tracker = tracker
        self.reporter = reporter
        self.steps_per_epoch = math.ceil(len(loader) / settings.accumulate)
        self.epoch = 0  # the epoch being trained, from 0
        self.step = 0  # optimizer steps done in it
        self.best_score, self.best_epoch = -1.0, 0
        self.history: list[dict[str, float]] = []
        if settings.channels_last:
            detector.to(memory_format=torch.channels_last)
        self.ema = ModelEma(detector) if settings.ema else None
        kind = settings.quantization_aware
        self.simulation = Int8Simulation(detector, kind).to(settings.device) if kind else None
        self.network: nn.Module = self.simulation.of(detector) if self.simulation else detector
        if settings.compile:
            self.network.compile()
        if world_size() > 1:
            self.network = DistributedDataParallel(self.network, broadcast_buffers=False)

    def fit(self) -> TrainResult:
        """Train from where the state stands to the last epoch.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; `latest_ckpt.pth` holds the very step that was reached.
            ModelError: the loss is no longer finite.
            ArtifactError: a checkpoint can't be written; the one before survives.
        """
        started = time.perf_counter()
        with stop_requests() as stop_requested:
            while self.epoch < self.settings.epochs:
                losses = self._train_epoch(stop_requested)
                self._finish_epoch(losses)
                if any_rank(stop_requested()):
                    raise self._interrupted()
        return TrainResult(
            self.folder / "best_ckpt.pth",
            self.folder / "latest_ckpt.pth",
            self.best_score,
            self.best_epoch,
            self.history,
            time.perf_counter() - started,
        )

    def _train_epoch(self, stop_requested: Callable[[], bool]) -> dict[str, float]:
        """Run the rest of the current epoch; returns the mean of each loss over the steps run."""
        self.network.train()
        sums: dict[str, float] = {}
        first = self.step
        batches = self.loader.epoch(self.epoch, start_step=first * self.settings.accumulate)
        for group in _groups(batches, self.settings.accumulate):
            learning_rate = self._set_learning_rate()
            losses = self._optimizer_step(group)
            self.step += 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            if self.step % self.settings.print_interval == 0 or self.step == self.steps_per_epoch:
                self._report_step(losses, learning_rate)
            if any_rank(stop_requested()):
                self._save("latest_ckpt.pth")
                raise self._interrupted()
        return {name: total / max(1, self.step - first) for name, total in sums.items()}

    def _set_learning_rate(self) -> float:
        step = self.epoch * self.steps_per_epoch + self.step
        for group in self.optimizer.param_groups:
            group["lr"] = self.scheduler.learning_rate(step, group["base_lr"])
        return float(self.optimizer.param_groups[0]["lr"])

    def _optimizer_step(self, group: list[Batch]) -> dict[str, float]:
        """One update from the batches of `group`; returns their mean losses.

        The losses are read back every step: on the CPU that is free, and a NaN is caught where it arises.
        """
        closed = self.settings.no_aug_epochs > 0 and self.epoch >= self.settings.epochs - self.settings.no_aug_epochs
        means: dict[str, float] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for batch in group:
            images = self._prepare(batch.images)
            with self.precision.autocast():
                raw = self.network(images)
            losses = self.detector.loss(raw, batch.targets.to(self.settings.device), augmentation_closed=closed)
            self.precision.scaler.scale(losses["total"] / len(group)).backward()
            for name, value in losses.items():
                means[name] = means.get(name, 0.0) + float(value.detach()) / len(group)
        if not math.isfinite(means["total"]):
            raise ModelError(
                f"the loss became {means['total']} in epoch {self.epoch + 1}, step {self.step + 1}",
                "lower the learning rate, lengthen warmup_epochs or switch fp16 off",
            )
        scale_before = self.precision.scaler.get_scale()
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        if self.ema and self.precision.scaler.get_scale() >= scale_before:  # a skipped step changes no weights
            self.ema.update(self.detector)
        return means

    def _prepare(self, images: Tensor) -> Tensor:
        images = normalize(images.to(self.settings.device, non_blocking=True), self.detector.spec.preprocess)
        return images.contiguous(memory_format=torch.channels_last) if self.settings.channels_last else images

    def _finish_epoch(self, losses: dict[str, float]) -> None:
        """Save, evaluate if it is time, save again. A kill during the evaluation loses no training step: a resumed run
        finds all steps of the epoch done and begins with the evaluation."""
        average_buffers(self.network)
        if self.ema:
            average_buffers(self.ema.model)
        self._save("latest_ckpt.pth")
        record = {
            "epoch": float(self.epoch + 1),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            **losses,
        }
        last = self.epoch + 1 == self.settings.epochs
        score = None
        if last or (self.epoch + 1) % self.settings.eval_interval == 0:
            weights = self.ema.model if self.ema else self.detector
            metrics = self.evaluate(self.simulation.of(weights) if self.simulation else weights)
            score = metrics["AP"]
            record.update(metrics)
            self.tracker.scalars(self.epoch + 1, {f"val/{name}": value for name, value in metrics.items()})
        self.history.append(record)
        self.epoch, self.step = self.epoch + 1, 0
        if score is not None and score > self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            self._save("best_ckpt.pth")
        if score is not None and self.settings.save_history:
            self._save(f"epoch_{self.epoch}_ckpt.pth")
        self._save("latest_ckpt.pth")

    def _report_step(self, losses: dict[str, float], learning_rate: float) -> None:
        step = self.epoch * self.steps_per_epoch + self.step
        shown = {"lr": learning_rate, **losses}
        self.tracker.scalars(step, {f"train/{name}": value for name, value in shown.items()})
        best = {"best AP": self.best_score} if self.best_epoch else {}
        self.reporter.progress(
            f"epoch {self.epoch + 1}/{self.settings.epochs}",
            step,
            self.settings.epochs * self.steps_per_epoch,
            shown | best,
        )

    def _interrupted(self) -> Interrupted:
        path = self.folder / "latest_ckpt.pth"
        return Interrupted(
            f"stopped in epoch {self.epoch + 1}, step {self.step} of {self.steps_per_epoch}; saved {path}",
            f"go on with: training.resume_training_from={path}",
        )

    # --- state -------------------------------------------------------------------------------------------------------

    def _save(self, name: str) -> None:
        if is_main():
            save_checkpoint(self.folder / name, self.state())

    def state(self) -> dict[str, Any]:
        """Everything that `load_state` needs to go on bit for bit."""
        weights = self.detector.state_dict()
        return {
            "spec": self.detector.spec.to_dict(),
            "model": self.ema.model.state_dict() if self.ema else weights,
            "live_model": weights if self.ema else None,
            "ema_updates": self.ema.updates if self.ema else None,
            "simulation": self.simulation.state_dict() if self.simulation else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "steps_per_epoch": self.steps_per_epoch,
            "settings": dataclasses.asdict(self.settings),
            "data_seed": self.loader.seed,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "generators": generator_states(),
        }

    def resume(self, path: Path, start_epoch: int | None = None) -> None:
        """Continue the run that wrote `path`.

        Its best weights come along: `best_ckpt.pth` beside `path` is copied into this run's folder.

        Args:
            path: `latest_ckpt.pth`, or any other checkpoint of a run.
            start_epoch: begin with this epoch (from 0) instead of the one the checkpoint stopped in.

        Raises:
            ArtifactError: the checkpoint belongs to another model, or to a run whose data, batch size or EMA setting
                differ, so that it can't go on as it was.
        """
        state = read_checkpoint(path)
        self._check_compatible(path, state)
        self.detector.load_state_dict(state["live_model"] or state["model"])
        if self.ema:
            self.ema.load_state(state["model"], state["ema_updates"])
        if self.simulation:
            self.simulation.load_state_dict(state["simulation"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        if start_epoch is not None:
            self.epoch, self.step = start_epoch, 0
        self.best_score, self.best_epoch, self.history = state["best_score"], state["best_epoch"], state["history"]
        restore_generators(state["generators"])
        if self.best_epoch and is_main():
            best = path.with_name("best_ckpt.pth")
            save_checkpoint(self.folder / "best_ckpt.pth", read_checkpoint(best if best.exists() else path))
        self.reporter.note(f"resumed {path} at epoch {self.epoch + 1}, step {self.step + 1}")

    def _check_compatible(self, path: Path, state: dict[str, Any]) -> None:
        mine = {
            "model": self.detector.spec.to_dict(),
            "steps per epoch": self.steps_per_epoch,
            "ema": self.settings.ema,
            "quantization_aware": self.settings.quantization_aware,
            "accumulate": self.settings.accumulate,
            "data seed": self.loader.seed,
        }
        theirs = {
            "model": state["spec"],
            "steps per epoch": state["steps_per_epoch"],
            "ema": state["settings"]["ema"],
            "quantization_aware": state["settings"].get("quantization_aware"),  # older checkpoints don't say
            "accumulate": state["settings"]["accumulate"],
            "data seed": state["data_seed"],
        }
        different = [f"{name}: {theirs[name]} there, {mine[name]} here" for name in mine if mine[name] != theirs[name]]
        if different:
            raise ArtifactError(
                f"{path} can't be resumed with this config ({'; '.join(different)})",
                "use the config saved beside the checkpoint, or start anew with model.model_path",
            )


def _groups(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of up to `size` consecutive batches."""
    while group := list(islice(batches, size)):
        yield group
