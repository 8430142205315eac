"""The built-in learning-rate schedules: pure functions of the optimizer step."""

from __future__ import annotations

import math
from bisect import bisect_right

from stdet.engine.schedule_options import CosineOptions, MultiStepOptions, YoloxWarmCosOptions
from stdet.interfaces.scheduler import ScheduleLength, Scheduler


class YoloxWarmCos(Scheduler):
    """Warm-up with the square of the progress, then a cosine down to a floor (YOLOX, arXiv 2107.08430).

    With t = step + 1, W warm-up steps, T total steps, N steps without strong augmentation, m = floor:
    t <= W: (lr - warmup_lr) (t/W)^2 + warmup_lr; t >= T - N: m; else m + (lr - m)/2 (1 + cos(pi (t - W)/(T - W - N))).
    The reference leaves the very first step at `warmup_lr` (0, a wasted step); here step 0 uses t = 1.
    """

    def __init__(self, length: ScheduleLength, options: YoloxWarmCosOptions) -> None:
        self._options = options
        self._warmup = options.warmup_epochs * length.steps_per_epoch
        self._floor_from = length.total_steps - length.no_aug_epochs * length.steps_per_epoch

    def learning_rate(self, step: int, base_lr: float) -> float:
        t = step + 1
        if t <= self._warmup:
            start = self._options.warmup_lr
            return start + (base_lr - start) * (t / self._warmup) ** 2
        floor = base_lr * self._options.min_lr_ratio
        if t >= self._floor_from:
            return floor
        progress = (t - self._warmup) / (self._floor_from - self._warmup)
        return floor + 0.5 * (base_lr - floor) * (1 + math.cos(math.pi * progress))


class Cosine(Scheduler):
    """Cosine from the base rate to 0 over `t_max` epochs, one value an epoch (SGDR without restarts, arXiv 1608.03983).

    After `t_max` the rate stays 0; the reference lets it climb again, so its last epochs undo what was learned.
    """

    def __init__(self, length: ScheduleLength, options: CosineOptions) -> None:
        self._steps_per_epoch = length.steps_per_epoch
        self._t_max = options.t_max or length.epochs

    def learning_rate(self, step: int, base_lr: float) -> float:
        progress = min(step // self._steps_per_epoch / self._t_max, 1.0)
        return 0.5 * base_lr * (1 + math.cos(math.pi * progress))


class MultiStep(Scheduler):
    """The base rate times `gamma` to the number of milestones (epochs) passed."""

    def __init__(self, length: ScheduleLength, options: MultiStepOptions) -> None:
        self._steps_per_epoch = length.steps_per_epoch
        self._options = options

    def learning_rate(self, step: int, base_lr: float) -> float:
        passed = bisect_right(self._options.milestones, step // self._steps_per_epoch)
        return base_lr * self._options.gamma**passed
