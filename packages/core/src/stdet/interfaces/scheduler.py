"""The contract of a learning-rate schedule. Checked by `stdet.testing.SchedulerContract`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from stdet.interfaces.family import Options


class ScheduleOptions(Options):
    """Base of the keys that a schedule adds to the `training` section."""

    def notes(self, epochs: int) -> Iterable[str]:
        """A sentence for each thing about these keys that whoever trains for `epochs` epochs should know before."""
        return ()


@dataclass(frozen=True)
class ScheduleLength:
    """How long the training is, in optimizer steps.

    Attributes:
        epochs: number of epochs.
        steps_per_epoch: optimizer steps in an epoch.
        no_aug_epochs: final epochs without strong augmentation.
    """

    epochs: int
    steps_per_epoch: int
    no_aug_epochs: int = 0

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


class Scheduler(ABC):
    """Step to learning rate: a pure function, so a resumed run needs no state but the step."""

    @abstractmethod
    def learning_rate(self, step: int, base_lr: float) -> float:
        """Learning rate of optimizer step `step` (0 is the first one) for a group whose base rate is `base_lr`."""
