"""A schedule."""

from __future__ import annotations

from acme_stars.facts import FlatOptions
from stdet.interfaces.scheduler import ScheduleLength, Scheduler


class Flat(Scheduler):
    """The same rate in every step."""

    def __init__(self, length: ScheduleLength, options: FlatOptions) -> None:
        self._share = options.share

    def learning_rate(self, step: int, base_lr: float) -> float:
        return base_lr * self._share
