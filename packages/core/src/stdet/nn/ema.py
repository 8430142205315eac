"""Exponential moving average of a model's weights (Polyak averaging, with YOLOX's ramp, arXiv 2107.08430)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stdet.interfaces.detector import Detector


class ModelEma:
    """A copy of a detector that follows it slowly.

    After n updates the decay is d(n) = decay (1 - exp(-n / ramp)) and every floating entry of the state dict, BatchNorm
    statistics included, becomes d ema + (1 - d) model. Integer counters are copied.

    Attributes:
        model: the averaged detector, in eval mode, without gradients.
        updates: how many times it was updated.
    """

    def __init__(self, detector: Detector, decay: float = 0.9998, ramp: float = 2000.0) -> None:
        self.model = copy.deepcopy(detector).eval().requires_grad_(False)
        self.updates = 0
        self._decay = decay
        self._ramp = ramp
        self._followed: Detector | None = None
        self._pairs: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]] = [], [], [], []

    @torch.no_grad()
    def update(self, detector: Detector) -> None:
        """Move the average towards the weights of `detector`, with a few calls for all tensors together."""
        if detector is not self._followed:
            self._follow(detector)
        self.updates += 1
        decay = self._decay * (1 - math.exp(-self.updates / self._ramp))
        averaged, new, counters, new_counters = self._pairs
        torch._foreach_mul_(averaged, decay)
        torch._foreach_add_(averaged, new, alpha=1 - decay)
        if counters:  # torch takes no empty list
            torch._foreach_copy_(counters, new_counters)

    def _follow(self, detector: Detector) -> None:
        """Find the tensors once: those of a module stay the same objects while it trains."""
        own, live = self.model.state_dict(), detector.state_dict()
        floating = [key for key, value in own.items() if value.is_floating_point()]
        others = [key for key in own if key not in set(floating)]
        self._pairs = (
            [own[key] for key in floating],
            [live[key].detach() for key in floating],
            [own[key] for key in others],
            [live[key] for key in others],
        )
        self._followed = detector

    def load_state(self, state: Mapping[str, Tensor | Any], updates: int) -> None:
        """Go on from saved weights, each of the shape that it has in `model`, and counter."""
        self.model.load_state_dict(dict(state))
        self.updates = updates
