"""Schedules against values worked out by hand from the formulas, and against torch's own where torch has one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stdet.engine.schedule_options import CosineOptions, MultiStepOptions, YoloxWarmCosOptions
from stdet.engine.schedules import Cosine, MultiStep, YoloxWarmCos
from stdet.interfaces.scheduler import ScheduleLength


def test_yoloxwarmcos_warms_up_quadratically_then_falls_to_its_floor() -> None:
    schedule = YoloxWarmCos(ScheduleLength(10, 20, no_aug_epochs=2), YoloxWarmCosOptions(warmup_epochs=1))
    rates = [schedule.learning_rate(step, 0.01) for step in range(200)]
    assert rates[0] == pytest.approx(0.01 * (1 / 20) ** 2)
    assert rates[9] == pytest.approx(0.01 * 0.25)
    assert rates[19] == pytest.approx(0.01)
    middle = 0.0005 + 0.5 * (0.01 - 0.0005) * (1 + math.cos(math.pi * 70 / 140))
    assert rates[89] == pytest.approx(middle)
    assert all(rate == pytest.approx(0.0005) for rate in rates[159:])
    assert rates[158] > 0.0005


def test_yoloxwarmcos_starts_at_warmup_lr_and_never_wastes_the_first_step() -> None:
    schedule = YoloxWarmCos(ScheduleLength(2, 10), YoloxWarmCosOptions(warmup_epochs=1, warmup_lr=0.002))
    assert 0.002 < schedule.learning_rate(0, 0.01) < 0.0021


@given(
    epochs=st.integers(1, 20),
    steps=st.integers(1, 30),
    no_aug=st.integers(0, 25),
    warmup=st.floats(0, 25),
)
def test_yoloxwarmcos_stays_between_zero_and_the_base_rate(epochs: int, steps: int, no_aug: int, warmup: float) -> None:
    schedule = YoloxWarmCos(ScheduleLength(epochs, steps, no_aug), YoloxWarmCosOptions(warmup_epochs=warmup))
    for step in range(epochs * steps):
        assert 0 < schedule.learning_rate(step, 0.1) <= 0.1 + 1e-12


def test_cosine_equals_torch_until_t_max_and_stays_at_zero_after() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    schedule = Cosine(ScheduleLength(10, 3), CosineOptions(t_max=7))
    for epoch in range(7):
        assert schedule.learning_rate(epoch * 3 + 2, 0.1) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert all(schedule.learning_rate(step, 0.1) == pytest.approx(0, abs=1e-15) for step in range(21, 30))


def test_multi_step_equals_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5], gamma=0.3)
    schedule = MultiStep(ScheduleLength(8, 4), MultiStepOptions(milestones="2, 5", gamma=0.3))
    for epoch in range(8):
        assert schedule.learning_rate(epoch * 4, 0.1) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("milestones", ["5,2", [0, 3], [], [3, 3]])
def test_milestones_that_do_not_ascend_are_refused(milestones: object) -> None:
    with pytest.raises(ValueError, match=r"ascending|epoch"):
        MultiStepOptions(milestones=milestones)
