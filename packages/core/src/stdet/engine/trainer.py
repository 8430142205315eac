"""The training loop, meant to be read in one sitting."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stdet.data.loader import Batch, TrainLoader
from stdet.data.workers import never
from stdet.engine.callbacks import Callback
from stdet.engine.checkpoint import generator_states, read_checkpoint, restore_generators, save_checkpoint
from stdet.engine.gradients import Gradients
from stdet.engine.interrupt import stop_requests
from stdet.engine.losses import FiniteWatch, LossSums, read_back
from stdet.engine.resume import RunFacts, facts_of
from stdet.errors import ArtifactError, Interrupted, ModelError, PeerLost, StdetError
from stdet.interfaces.detector import Detector
from stdet.interfaces.reporter import Reporter
from stdet.interfaces.scheduler import Scheduler
from stdet.interfaces.tracker import Tracker
from stdet.nn.distributed import (
    any_rank,
    average_buffers,
    distributed_module,
    is_main,
    rank,
    tells_of_a_lost_peer,
)
from stdet.nn.ema import ModelEma
from stdet.nn.int8_training import Int8Simulation
from stdet.nn.precision import Precision

log = logging.getLogger(__name__)

STOP_COMES_S = 1.0
"""Who stops a group of processes may reach the others first: how long the loss of one waits to be called a stop."""

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
        callbacks: Sequence[Callback] = (),
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
        self.callbacks = callbacks
        self.steps_per_epoch = math.ceil(len(loader) / settings.accumulate)
        self.epoch = 0  # the epoch being trained, from 0
        self.step = 0  # optimizer steps done in it
        self.losses = LossSums()  # of these steps
        self.ending: str | None = None  # why the training ends before its last epoch
        self.best_score, self.best_epoch = -1.0, 0
        self.history: list[dict[str, float]] = []
        self.stop_requested: Callable[[], bool] = never
        self._watch = FiniteWatch()
        if settings.channels_last:
            detector.to(memory_format=torch.channels_last)
        self.ema = ModelEma(detector) if settings.ema else None
        kind = settings.quantization_aware
        self.simulation = Int8Simulation(detector, kind).to(settings.device) if kind else None
        network: nn.Module = self.simulation.of(detector) if self.simulation else detector
        if settings.compile:
            network.compile()
        self.network = distributed_module(network)
        self.gradients = Gradients(detector, self.network, precision, settings.device, settings.channels_last, reporter)

    def fit(self) -> TrainResult:
        """Train from where the state stands to the last epoch, or to the one that a callback makes the last.

        Raises:
            Interrupted: Ctrl-C, SIGTERM or SIGHUP; `latest_ckpt.pth` holds the very step that was reached.
            PeerLost: a data worker or another process of the training died, or makes no batch any more; so does it then.
            DataError: an image can't be read; so does it then.
            ModelError: the loss is no longer finite; `not_finite.pth` holds the batch. Or memory doesn't hold one image.
            ArtifactError: a checkpoint can't be written; the one before survives.
        """
        started = time.perf_counter()
        if self.epoch >= self.settings.epochs or self.ending is not None:
            self._save("latest_ckpt.pth")  # as every training leaves it
        with stop_requests() as self.stop_requested, closing(self.loader):
            try:
                while self.epoch < self.settings.epochs and self.ending is None:
                    self._train_epoch()
                    self._finish_epoch()
                    if any_rank(self.stop_requested())[0]:
                        raise self._interrupted()
            except RuntimeError as error:
                if not tells_of_a_lost_peer(error):
                    raise
                raise self._given_up(PeerLost("another process failed", "its own message says why")) from error
        if self.ending is not None:
            self.reporter.note(f"training ends with epoch {self.epoch} of {self.settings.epochs}: {self.ending}")
        best = self.folder / "best_ckpt.pth"
        self.reporter.note(f"best AP {self.best_score:.4f} in epoch {self.best_epoch}: {best}")
        return TrainResult(
            best,
            self.folder / "latest_ckpt.pth",
            self.best_score,
            self.best_epoch,
            self.history,
            time.perf_counter() - started,
        )

    def finish(self, reason: str) -> None:
        """Make the epoch that is being trained the last one; for callbacks."""
        self.ending = self.ending or reason

    def _train_epoch(self) -> None:
        """Run the rest of the current epoch."""
        self.network.train()
        batches = self.loader.epoch(self.epoch, self.step * self.settings.accumulate, self.stop_requested)
        before: list[Batch] = []
        while group := self._group(batches):
            learning_rate = self._set_learning_rate()
            losses = self._optimizer_step(group)
            self.step += 1
            self.losses.add(losses)
            for callback in self.callbacks:
                callback.after_step(self)
            bad = self._watch.push(losses["total"], self.step)
            stop = self._vote(self.stop_requested(), bad, group if bad == self.step else before)
            if self.step % self.settings.print_interval == 0 or self.step == self.steps_per_epoch:
                self._report_step(read_back(losses), learning_rate)
            before = group
            if stop:
                self._vote(True, self._watch.settle(), before)
                self._save("latest_ckpt.pth")
                raise self._interrupted()
        self._vote(False, self._watch.settle(), before)

    def _group(self, batches: Iterator[Batch]) -> list[Batch]:
        """The batches of the next optimizer step; none when the epoch has no more."""
        try:
            return list(islice(batches, self.settings.accumulate))
        except StdetError as error:
            raise self._given_up(error) from error

    def _given_up(self, error: StdetError) -> StdetError:
        """What to raise when `error` ends the training between two steps; what was reached is saved.

        Of a training that shall stop, the stop: it may be what ended a worker.
        """
        if self._watch.settle() is None:
            self._save("latest_ckpt.pth")
        patience = time.monotonic() + (STOP_COMES_S if isinstance(error, PeerLost) else 0.0)
        while not (stopping := self.stop_requested()) and time.monotonic() < patience:
            time.sleep(0.05)
        return self._interrupted() if stopping else error

    def _vote(self, stop: bool, bad_step: int | None, batches: list[Batch]) -> bool:
        """Whether any process was asked to stop; all end together when the loss of one is no longer finite."""
        stop, bad = any_rank(stop, bad_step is not None)
        if bad:
            raise self._not_finite(bad_step, batches)
        return stop

    def _not_finite(self, step: int | None, batches: list[Batch]) -> ModelError:
        """The error to raise; the process in which it happened saves `batches`, those of the step."""
        hint = "lower the learning rate, lengthen warmup_epochs, set clip_grad_norm or switch fp16 off"
        if step is None:
            return ModelError(f"the loss of another process is no longer finite in epoch {self.epoch + 1}", hint)
        path = self.folder / ("not_finite.pth" if is_main() else f"not_finite_{rank()}.pth")
        fields = [{"images": b.images, "boxes": b.targets.boxes, "labels": b.targets.labels} for b in batches]
        indices = [index for batch in batches for index in batch.indices]
        save_checkpoint(path, {"batches": fields, "indices": indices})
        images = ", ".join(str(self.loader.dataset.annotation(index).image_id) for index in indices)
        return ModelError(
            f"the loss is no longer finite in epoch {self.epoch + 1}, step {step}; its batch is in {path}, "
            f"made of the images {images} and their partners",
            hint,
        )

    def _set_learning_rate(self) -> float:
        step = self.epoch * self.steps_per_epoch + self.step
        for group in self.optimizer.param_groups:
            group["lr"] = self.scheduler.learning_rate(step, group["base_lr"])
        return float(self.optimizer.param_groups[0]["lr"])

    def _optimizer_step(self, group: list[Batch]) -> dict[str, Tensor]:
        """One update from the batches of `group`; returns their mean losses, float scalars on the device."""
        closed = self.settings.no_aug_epochs > 0 and self.epoch >= self.settings.epochs - self.settings.no_aug_epochs
        losses = self.gradients.compute(group, augmentation_closed=closed)
        if self.callbacks:
            self.precision.scaler.unscale_(self.optimizer)
        for callback in self.callbacks:
            callback.before_update(self)
        self.precision.scaler.step(self.optimizer)
        self.precision.scaler.update()
        if self.ema:
            self.ema.update(self.detector)
        return losses

    def _finish_epoch(self) -> None:
        """Save, evaluate if it is time, save again. A kill during the evaluation loses no training step: a resumed run
        finds all steps of the epoch done and begins with the evaluation."""
        average_buffers(self.network)
        if self.ema:
            average_buffers(self.ema.model)
        self._save("latest_ckpt.pth")
        for callback in self.callbacks:
            callback.after_epoch(self)
        self._agree_on_the_end()
        record = {
            "epoch": float(self.epoch + 1),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            **self.losses.means(),
        }
        last = self.epoch + 1 == self.settings.epochs or self.ending is not None
        metrics: Mapping[str, float] = {}
        if last or (self.epoch + 1) % self.settings.eval_interval == 0:
            weights = self.ema.model if self.ema else self.detector
            try:
                metrics = self.evaluate(self.simulation.of(weights) if self.simulation else weights)
            except StdetError as error:
                raise self._given_up(error) from error
        self.history.append({**record, **metrics})
        self.epoch, self.step, self.losses = self.epoch + 1, 0, LossSums()
        if metrics:
            self._judge(metrics)
        self._agree_on_the_end()
        self._save("latest_ckpt.pth")

    def _agree_on_the_end(self) -> None:
        if any_rank(self.ending is not None)[0]:
            self.finish("another process ended it")

    def _judge(self, metrics: Mapping[str, float]) -> None:
        """Keep the best epoch, tell people, the tracker and the callbacks."""
        if metrics["AP"] > self.best_score:
            self.best_score, self.best_epoch = metrics["AP"], self.epoch
            self._save("best_ckpt.pth")
        if self.settings.save_history:
            self._save(f"epoch_{self.epoch}_ckpt.pth")
        self.tracker.scalars(self.epoch, {f"val/{name}": value for name, value in metrics.items()})
        said = ", ".join(f"{name} {metrics[name]:.4f}" for name in ("AP", "AP50") if name in metrics)
        first = self.best_epoch == self.epoch
        best = "the best so far" if first else f"best AP {self.best_score:.4f} in epoch {self.best_epoch}"
        self.reporter.note(f"epoch {self.epoch}/{self.settings.epochs}: {said} ({best})")
        for callback in self.callbacks:
            callback.after_evaluation(self, metrics)

    def _report_step(self, losses: dict[str, float], learning_rate: float) -> None:
        step = self.epoch * self.steps_per_epoch + self.step
        shown = {"lr": learning_rate, **losses}
        self.tracker.scalars(step, {f"train/{name}": value for name, value in shown.items()})
        self.reporter.progress(
            f"epoch {self.epoch + 1}/{self.settings.epochs}", step, self.settings.epochs * self.steps_per_epoch, shown
        )

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"stopped in epoch {self.epoch + 1}, step {self.step} of {self.steps_per_epoch}; "
            f"saved {self.folder / 'latest_ckpt.pth'}"
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
            "precision": self.precision.description,
            "epoch": self.epoch,
            "step": self.step,
            "losses": self.losses.sums,
            "parts": self.gradients.parts,
            "ending": self.ending,
            "run": self._facts().document(),
            "steps_per_epoch": self.steps_per_epoch,
            "settings": dataclasses.asdict(self.settings),
            "data_seed": self.loader.seed,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "history": self.history,
            "generators": generator_states(self.settings.device),
        }

    def resume(self, path: Path, start_epoch: int | None = None, *, finished: bool = False) -> None:
        """Continue the run that wrote `path`.

        Its best weights come along: `best_ckpt.pth` beside `path` is copied into this run's folder.

        Args:
            path: `latest_ckpt.pth`, or any other checkpoint of a run.
            start_epoch: begin with this epoch (from 0) instead of the one the checkpoint stopped in; what the history has of
                it and later ones goes.
            finished: take the training as done, though it ended before its last epoch.

        Raises:
            ArtifactError: the checkpoint belongs to another model, or to a run whose data, batch size or EMA setting
                differ, so that it can't go on as it was.
        """
        state = read_checkpoint(path)
        if different := RunFacts.of_state(state, path).differences(self._facts()):
            raise ArtifactError(
                f"{path} can't be resumed with this config ({'; '.join(different)})",
                "use the config saved beside the checkpoint, or start anew with model.model_path",
            )
        self.detector.load_state_dict(state["live_model"] or state["model"])
        if self.ema:
            self.ema.load_state(state["model"], state["ema_updates"])
        if self.simulation:
            self.simulation.load_state_dict(state["simulation"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._resume_precision(state)
        self.epoch, self.step, self.gradients.parts = state["epoch"], state["step"], state.get("parts", 1)
        self.losses = LossSums(state["losses"], self.step) if "losses" in state else LossSums()
        if start_epoch is not None:
            self.epoch, self.step, self.losses = start_epoch, 0, LossSums()
        self.best_score, self.best_epoch = state["best_score"], state["best_epoch"]
        self.history = [row for row in state["history"] if row["epoch"] <= self.epoch]
        self.ending = state["ending"] if finished else None
        restore_generators(state["generators"], self.settings.device)
        if self.best_epoch and is_main():
            best = path.with_name("best_ckpt.pth")
            save_checkpoint(self.folder / "best_ckpt.pth", read_checkpoint(best if best.exists() else path))
        self.reporter.note(f"resumed {path} at epoch {self.epoch + 1}, step {self.step + 1}")

    def _resume_precision(self, state: Mapping[str, Any]) -> None:
        """Take over the scale of the loss; a run in float32 has none, and one on another device may compute otherwise."""
        if state["scaler"]:
            self.precision.scaler.load_state_dict(state["scaler"])
        before = state.get("precision", self.precision.description)  # older checkpoints don't say
        if before != self.precision.description:
            self.reporter.note(f"the precision changes: {before} before, {self.precision.description} from here on")

    def _facts(self) -> RunFacts:
        return facts_of(self.detector, self.loader, self.optimizer, self.settings)
