"""Optimizers by the name that configs use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
}


def make_optimizer(name: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """An optimizer over `groups` (each with `params`, `lr`, `weight_decay`), with `options` of its own (momentum, betas).

    Every group remembers its base rate as `base_lr`, which the schedule scales.
    """
    optimizer = OPTIMIZERS[name](groups, **options)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer
