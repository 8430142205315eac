"""Several processes, one a device, as `torchrun` starts them. Everything here works, and costs nothing, with one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes when `torchrun` started this one (it sets RANK and WORLD_SIZE); else do nothing.

    Tensors on CUDA devices travel by NCCL, others by gloo. The main process may work alone for hours, on a
    quantization say, so the others wait for it for a day.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timedelta(days=1))
    try:
        yield
    finally:
        dist.destroy_process_group()


def initialized() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if initialized() else 1


def is_main() -> bool:
    """True in the one process that writes files."""
    return rank() == 0


def from_main(make: Callable[[], T]) -> T:
    """What `make` returns in the main process, in every process; the others don't call it and wait."""
    if world_size() == 1:
        return make()
    box: list[Any] = [make() if is_main() else None]
    dist.broadcast_object_list(box)
    result: T = box[0]
    return result


def gathered(mine: dict[int, T]) -> dict[int, T]:
    """The entries of all processes together, in every process."""
    if world_size() == 1:
        return mine
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, mine)
    return {key: value for part in parts for key, value in part.items()}


def any_rank(flag: bool) -> bool:
    """True in every process as soon as `flag` is true in one."""
    if world_size() == 1:
        return flag
    votes = torch.tensor(int(flag))
    dist.all_reduce(votes)
    return bool(votes)


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes, without gradient; the tensor itself when there is one process."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Give every process the mean of all processes' BatchNorm statistics; each has seen only its own share of images."""
    for buffer in module.buffers():
        if buffer.is_floating_point() and world_size() > 1:
            buffer.copy_(mean_over_ranks(buffer))
