"""When a device's memory is used up: the commonest mistake of all, and seldom one that needs a person."""

from __future__ import annotations

import torch
from torch import Tensor


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch raised it because memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def give_back_memory(device: str) -> None:
    """Free what torch holds for later on a GPU, so that smaller pieces find room."""
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def to_device(tensor: Tensor, device: str) -> Tensor:
    """A tensor of the CPU, of any dtype and shape, on `device`.

    A GPU gets it from pinned memory: else the program would wait for the copy.
    """
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
