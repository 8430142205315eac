"""Config keys of the schedules. No torch here: `stdet config check` reads these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from stdet.interfaces.scheduler import ScheduleOptions


def _split_commas(value: object) -> object:
    """The reference writes milestones as one string: "80,100"."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


class YoloxWarmCosOptions(ScheduleOptions):
    """`yoloxwarmcos`: quadratic warm-up, cosine, constant floor in the last `no_aug_epochs`."""

    warmup_epochs: float = Field(1, ge=0, description="epochs of quadratic warm-up")
    warmup_lr: float = Field(0.0, ge=0, description="learning rate that the warm-up starts from")
    min_lr_ratio: float = Field(0.05, ge=0, le=1, description="floor of the learning rate, as a share of learning_rate")

    def notes(self, epochs: int) -> Iterator[str]:
        if self.warmup_epochs >= epochs:
            yield f"training.warmup_epochs {self.warmup_epochs:g}: the warm-up doesn't end within {epochs} epochs"


class CosineOptions(ScheduleOptions):
    """`cosine`: from learning_rate to 0 within `t_max` epochs."""

    t_max: int | None = Field(None, gt=0, description="epochs until the rate reaches 0; default: all epochs")

    def notes(self, epochs: int) -> Iterator[str]:
        if self.t_max is not None and self.t_max < epochs:
            yield (
                f"training.t_max {self.t_max} is below epochs {epochs}: the rate is 0 in the last "
                f"{epochs - self.t_max} epochs, which change nothing"
            )


class MultiStepOptions(ScheduleOptions):
    """`multi-step`: times `gamma` at each milestone."""

    milestones: Annotated[tuple[int, ...], BeforeValidator(_split_commas)] = Field(
        description='epochs after which the rate drops, ascending: "80,100" or [80, 100]'
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor applied at each milestone")

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or any(m <= 0 for m in value) or list(value) != sorted(set(value)):
            raise ValueError("milestones must be positive epochs in ascending order")
        return value

    def notes(self, epochs: int) -> Iterator[str]:
        late = [milestone for milestone in self.milestones if milestone >= epochs]
        if late:
            yield f"training.milestones {', '.join(map(str, late))}: not reached in {epochs} epochs"
