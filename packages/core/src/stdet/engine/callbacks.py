"""What may look on, and act, at fixed points of a training: plain objects given to the trainer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch.nn.utils import clip_grad_norm_

if TYPE_CHECKING:
    from stdet.engine.trainer import Trainer


class Callback:
    """Does nothing at any point; subclasses override those that they need. In a run of several processes each has its own."""

    def before_update(self, trainer: Trainer) -> None:
        """The gradients of a step are complete and unscaled, the weights not yet changed."""

    def after_step(self, trainer: Trainer) -> None:
        """A step is done and counted."""

    def after_epoch(self, trainer: Trainer) -> None:
        """The steps of an epoch are done and saved, and it isn't evaluated yet. `trainer.finish` makes it the last one."""

    def after_evaluation(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        """An epoch was evaluated: `metrics` are also in the last row of `trainer.history`, the best is saved."""


class ClipGradNorm(Callback):
    """Shrinks the gradients when their norm, over all weights together, is above `most`."""

    def __init__(self, most: float) -> None:
        self._most = most

    def before_update(self, trainer: Trainer) -> None:
        weights = [weight for group in trainer.optimizer.param_groups for weight in group["params"]]
        clip_grad_norm_(weights, self._most)


class EarlyStopping(Callback):
    """Ends the training when so many evaluations in a row brought no better score."""

    def __init__(self, evaluations: int) -> None:
        self._evaluations = evaluations

    def after_evaluation(self, trainer: Trainer, metrics: Mapping[str, float]) -> None:
        since = sum("AP" in row and row["epoch"] > trainer.best_epoch for row in trainer.history)
        if since >= self._evaluations:
            trainer.finish(f"no better AP in {since} evaluations (training.early_stopping)")


class TimeBudget(Callback):
    """Ends the training before an epoch that would not be over within the budget, measured by the longest so far."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._begun = clock()
        self._longest = 0.0

    def after_epoch(self, trainer: Trainer) -> None:
        now = self._clock()
        self._longest = max(self._longest, now - self._begun)
        self._begun = now
        if now + self._longest > self._end:
            trainer.finish("the next epoch would not be over within training.time_budget")
