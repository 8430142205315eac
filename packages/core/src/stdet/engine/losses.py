"""The losses of an epoch, read back from the device as seldom as it goes: reading makes a GPU wait."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stdet.nn.distributed import mean_over_ranks


class LossSums:
    """Adds up the losses of steps, on the device they arise on.

    Attributes:
        sums: loss name to its sum, float64 scalar.
        steps: how many were added.
    """

    def __init__(self, sums: Mapping[str, Tensor] | None = None, steps: int = 0) -> None:
        self.sums = dict(sums or {})
        self.steps = steps

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count a step in. `losses`: float scalars."""
        for name, value in losses.items():
            before = self.sums.get(name)
            now = value.detach().double()
            self.sums[name] = now if before is None else before.to(now.device) + now
        self.steps += 1

    def means(self) -> dict[str, float]:
        """The mean of each loss over the steps of all processes; every one of them must ask."""
        own = read_back(self.sums)
        means = mean_over_ranks(torch.tensor(list(own.values()), dtype=torch.float64) / max(1, self.steps))
        return dict(zip(own, means.tolist(), strict=True))


def read_back(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """The values of scalars, fetched from their device together."""
    if not scalars:
        return {}
    device = next((value.device for value in scalars.values() if value.is_cuda), torch.device("cpu"))
    together = torch.stack([value.detach().double().to(device, non_blocking=True) for value in scalars.values()])
    return dict(zip(scalars, together.tolist(), strict=True))


class FiniteWatch:
    """Tells that a loss isn't finite: at once on the CPU, one step late on CUDA, whose work is then already queued."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event, int] | None = None

    def push(self, total: Tensor, step: int) -> int | None:
        """Watch `total`, a scalar, the loss of `step`.

        Returns:
            The number of a step whose loss wasn't finite, when one is known.
        """
        finite = torch.isfinite(total.detach())
        if not total.is_cuda:
            return None if bool(finite) else step
        bad = self.settle()
        host = finite.to("cpu", non_blocking=True)  # into pinned memory, so that nothing waits
        event = torch.cuda.Event()
        event.record()
        self._pending = host, event, step
        return bad

    def settle(self) -> int | None:
        """Wait for what is still unknown; returns as `push` does."""
        if self._pending is None:
            return None
        host, event, step = self._pending
        self._pending = None
        event.synchronize()
        return None if bool(host) else step
