"""The built-in schedules keep the contract."""

from __future__ import annotations

from stdet.testing import SchedulerContract


class TestYoloxWarmCos(SchedulerContract):
    name = "yoloxwarmcos"


class TestCosine(SchedulerContract):
    name = "cosine"


class TestMultiStep(SchedulerContract):
    name = "multi-step"
    options = {"milestones": "2,4"}  # noqa: RUF012
