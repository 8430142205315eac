"""Optimizers by the name that configs use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stdet.config.optimizers import torch_optimizers


def make_optimizer(name: str, groups: list[dict[str, Any]], options: Mapping[str, Any]) -> torch.optim.Optimizer:
    """An optimizer over `groups` (each with `params`, `lr`, `weight_decay`), with `options` of its own (momentum, betas).

    Every group remembers its base rate as `base_lr`, which the schedule scales.

    Args:
        name: of a class of torch.optim that `stdet.config.optimizers.options_of` knows.
    """
    optimizer = torch_optimizers()[name](groups, **options)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer
