"""The few questions a network or the trainer asks about the other processes. Without torch.distributed: one process."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if initialized() else 1


def is_main() -> bool:
    """True in the one process that writes files."""
    return rank() == 0


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes, without gradient; the tensor itself when there is one process."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()
