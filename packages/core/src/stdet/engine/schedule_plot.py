"""The learning rate over a training, drawn without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stdet.artifacts import atomic_path
from stdet.extras import need
from stdet.interfaces.scheduler import ScheduleLength, Scheduler

MOST_POINTS = 20_000
"""A curve of more steps is sampled: a picture is a few thousand pixels wide."""


@dataclass(frozen=True)
class ScheduleCurve:
    """The learning rate of parameter groups that share it.

    Attributes:
        groups: their names.
        base_lr: the rate that the schedule scales.
        steps: int64 (N,), optimizer steps from 0, ascending, first and last included.
        rates: float64 (N,), learning rate in each of them.
    """

    groups: tuple[str, ...]
    base_lr: float
    steps: np.ndarray
    rates: np.ndarray


def schedule_curves(
    scheduler: Scheduler, length: ScheduleLength, groups: Sequence[Mapping[str, Any]]
) -> list[ScheduleCurve]:
    """The curves of `groups` (each with `lr`, and `name` where it has one), those of one rate together."""
    names: dict[float, list[str]] = {}
    for number, group in enumerate(groups):
        names.setdefault(group["lr"], []).append(group.get("name", f"group {number}"))
    steps = np.unique(np.linspace(0, length.total_steps - 1, min(length.total_steps, MOST_POINTS)).round().astype(int))
    return [
        ScheduleCurve(tuple(found), base_lr, steps, np.array([scheduler.learning_rate(int(s), base_lr) for s in steps]))
        for base_lr, found in names.items()
    ]


def plot_schedule(curves: Sequence[ScheduleCurve], length: ScheduleLength, path: Path) -> None:
    """Learning rate over the epochs, as PNG; a line marks where strong augmentation ends."""
    need("matplotlib", "drawing a schedule")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        label = f"{', '.join(curve.groups)}: {curve.base_lr:g}"
        axes.plot(curve.steps / length.steps_per_epoch, curve.rates, label=label)
    if length.no_aug_epochs:
        start = length.epochs - length.no_aug_epochs
        axes.axvline(start, color="grey", linestyle=":", label=f"without strong augmentation from epoch {start}")
    axes.set(xlabel=f"epoch (of {length.steps_per_epoch} steps)", ylabel="learning rate", xlim=(0, length.epochs))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
