"""Several processes, one a device, as `torchrun` starts them. Everything here works, and costs nothing, with one process."""

from __future__ import annotations

import atexit
import gc
import importlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stdet.errors import ConfigError, PeerLost

T = TypeVar("T")


LONGEST_WAIT = timedelta(days=1)
"""How long processes wait for each other by gloo: the main process may quantize alone for hours."""


@contextmanager
def process_group(device: str = "auto") -> Iterator[None]:
    """Join the other processes when `torchrun` started this one (it sets RANK and WORLD_SIZE); else do nothing.

    Tensors on CUDA devices travel by NCCL, with torch's own time-out, others by gloo. After an error the group is left at the
    end of the process and not here, so that its message is out before the others notice.

    Args:
        device: `training.device`; with `cpu` no CUDA device is touched.

    Raises:
        ConfigError: there are fewer CUDA devices than processes, or the variables of torchrun aren't all there.
        PeerLost: another process ended in the middle of the work.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    # Its functions have the group as a default argument: imported while there is one, by whomever, it would keep the group
    # and gloo's threads up to the end of the interpreter, which they abort now and then.
    importlib.import_module("torch.distributed.nn.functional")
    on_cuda = device != "cpu" and torch.cuda.is_available()
    if on_cuda:
        torch.cuda.set_device(_own_cuda_device())
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
    except (ValueError, dist.DistError) as error:
        raise ConfigError(
            f"RANK is set, but this process can't join the others: {str(error).splitlines()[0]}",
            "start several processes with torchrun, or unset RANK and WORLD_SIZE to run alone",
        ) from error
    except RuntimeError as error:
        if tells_of_a_lost_peer(error):
            raise _lost() from error
        raise
    _wait_long()
    try:
        yield
    except BaseException as error:
        if not on_cuda:  # NCCL could wait here for a process that waits itself
            atexit.register(_leave)
        if tells_of_a_lost_peer(error):
            raise _lost() from error
        raise
    _leave()


def _leave() -> None:
    """End the group and its threads: they live as long as anything holds it, as a trained module does in a cycle."""
    dist.destroy_process_group()
    gc.collect()


def _wait_long() -> None:
    """By gloo; NCCL keeps its own time-out, since its waits are those of a single step."""
    group: Any = dist.group.WORLD
    group._get_backend(torch.device("cpu"))._set_default_timeout(LONGEST_WAIT)


def _own_cuda_device() -> int:
    """Index of the device that this process works on: its number on this machine."""
    count = torch.cuda.device_count()
    number = int(os.environ.get("LOCAL_RANK", int(os.environ["RANK"]) % count))
    if number >= count:
        raise ConfigError(
            f"process {number + 1} of this machine has no CUDA device: there {'is' if count == 1 else 'are'} {count}",
            f"torchrun --nproc_per_node={count}, or training.device=cpu",
        )
    return number


def _lost() -> PeerLost:
    return PeerLost("another process failed", "its own message says why")


def tells_of_a_lost_peer(error: BaseException) -> bool:
    """Whether a collective operation failed because a process at its other end is gone."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError)
        and ("gloo/transport" in str(error) or "Connection closed by peer" in str(error))
    )


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
    """What `make` returns in the main process, in every process; the others don't call it and wait.

    Raises:
        PeerLost: `make` failed; in the main process, what it raised.
    """
    if world_size() == 1:
        return make()
    if is_main():
        try:
            made = make()
        except BaseException:
            with suppress(RuntimeError):  # the others may be gone; what went wrong here is what counts
                dist.broadcast_object_list([False, None])
            raise
        dist.broadcast_object_list([True, made])
        return made
    box: list[Any] = [None, None]
    dist.broadcast_object_list(box)
    done, value = box
    if not done:
        raise PeerLost("the first process failed", "its own message says why")
    result: T = value
    return result


def gathered(mine: dict[int, T]) -> dict[int, T]:
    """The entries of all processes together, in every process."""
    if world_size() == 1:
        return mine
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, mine)
    return {key: value for part in parts for key, value in part.items()}


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """For each of `flags`, in every process: whether it is true in one of them."""
    if world_size() == 1:
        return flags
    votes = torch.tensor([int(flag) for flag in flags])
    dist.all_reduce(votes)
    return tuple(votes.bool().tolist())


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over all processes, without gradient; the tensor itself when there is one process.

    Args:
        tensor: floating, of one shape in every process.
    """
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Give every process the same BatchNorm statistics; each has seen only its own share of images.

    They become the mean and the variance of all the values together: the mean of the variances, plus the variance of the
    means. Other floating buffers become their mean.
    """
    if world_size() == 1:
        return
    done: set[int] = set()
    for norm in module.modules():
        mean, variance = getattr(norm, "running_mean", None), getattr(norm, "running_var", None)
        if mean is None or variance is None:
            continue
        own = mean.clone()
        mean.copy_(mean_over_ranks(own))
        variance.copy_(mean_over_ranks(variance + (own - mean) ** 2))
        done |= {id(mean), id(variance)}
    for buffer in module.buffers():
        if buffer.is_floating_point() and id(buffer) not in done:
            buffer.copy_(mean_over_ranks(buffer))


def distributed_module(module: nn.Module) -> nn.Module:
    """`module` with gradients averaged over all processes; the module itself when there is one process.

    Buffers stay each process's own until `average_buffers`.
    """
    if world_size() == 1:
        return module
    known = inspect.signature(DistributedDataParallel).parameters  # torch 2.13 gave the argument another name
    options: Any = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
    return DistributedDataParallel(module, **options)


def synchronize_batch_norm(module: nn.Module, device: str) -> None:
    """Let the BatchNorm layers of `module` see the images of all processes in each step; their state keeps its keys.

    Raises:
        ConfigError: `device` isn't CUDA, for which alone torch has such layers.
    """
    if torch.device(device).type != "cuda":
        raise ConfigError(
            "training.sync_batch_norm works on CUDA devices only",
            "leave it out: on the CPU the statistics of all processes are brought together after each epoch",
        )
    if world_size() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(module)


def without_averaging(module: nn.Module) -> AbstractContextManager[None]:
    """In this context backward passes only add up gradients of this process; the next one outside averages them all."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()
