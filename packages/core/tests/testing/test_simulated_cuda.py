"""The simulated device behaves as a real one where code could tell them apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stdet.testing import simulated_cuda


def test_values_are_those_of_the_cpu_and_come_back() -> None:
    layer = nn.Conv2d(3, 4, 3)
    images = torch.rand(2, 3, 8, 8)
    expected = layer(images).detach()
    with simulated_cuda():
        found = layer.to("cuda")(images.to("cuda"))
        assert found.is_cuda
        assert layer.weight.device == torch.arange(3, device="cuda").device == torch.device("cuda:0")
        torch.testing.assert_close(found.cpu(), expected)
        with torch.autocast("cuda", torch.float16):
            assert layer(images.to("cuda")).dtype is torch.float16
        found.zero_()
        assert not found.cpu().any()


def test_two_devices_never_meet_but_for_single_numbers() -> None:
    with simulated_cuda():
        there = torch.zeros(3, device="cuda")
        assert (there + torch.tensor(2.0)).tolist() == [2.0] * 3
        for meet in (lambda: there + torch.ones(3), lambda: torch.cat([there, torch.ones(3)])):
            with pytest.raises(RuntimeError, match="same device"):
                meet()
        with pytest.raises(RuntimeError, match="not supported"):
            there.numpy()


WAITING: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda t: t[0].item(),
    "bool": lambda t: bool(t[0] > 5),
    "tolist": lambda t: t.tolist(),
    "cpu": lambda t: t.cpu(),
    "nonzero": lambda t: t.nonzero(),
    "mask": lambda t: t[t > 0],
    "mask of rows": lambda t: t[:, None][t > 0],
    "tensors for a mask": lambda t: t.clone().__setitem__(t > 0, t[1:]),
    "unique": lambda t: t.unique(),
    "repeat": lambda t: t.repeat_interleave(t.long()),
    "new": lambda t: t.new_tensor([1, 2]),
    "made there": lambda t: torch.tensor([1.0], device=t.device),
    "copied": lambda t: t.copy_(torch.ones(3)),
    "compared": lambda t: torch.equal(t, t + 1),
}
FREE: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic": lambda t: (t * 2 + 1).sum() / len(t),
    "where": lambda t: torch.where(t > 0, t, 0),
    "a number for a mask": lambda t: t.clone().__setitem__(t > 0, 3.0),
    "indices": lambda t: t[torch.arange(2, device=t.device)],
    "full": lambda t: t.new_full((3,), 7.0),
    "known size": lambda t: t.repeat_interleave(torch.full((3,), 2, device=t.device), output_size=6),
    "not waited for": lambda t: (t.copy_(torch.ones(3), non_blocking=True), t.to("cpu", non_blocking=True)),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_makes_a_gpu_wait_is_counted_with_its_line(name: str) -> None:
    with simulated_cuda() as waits:
        there = torch.tensor([0.0, 1.0, 2.0]).to("cuda", non_blocking=True)
        assert waits == []
        WAITING[name](there)
    assert len(waits) == 1
    assert "test_simulated_cuda.py" in waits[0]


@pytest.mark.parametrize("name", FREE)
def test_what_keeps_a_gpu_busy_is_not(name: str) -> None:
    with simulated_cuda() as waits:
        FREE[name](torch.tensor([0.0, 1.0, 2.0]).to("cuda", non_blocking=True))
    assert waits == []


def test_outside_the_context_there_is_no_device() -> None:
    with simulated_cuda():
        there = torch.zeros(2, device="cuda")
    with pytest.raises(RuntimeError, match="outside of"):
        there + 1
