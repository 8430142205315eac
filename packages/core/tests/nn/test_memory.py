"""How tensors get to a device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from stdet.data.loader import Batch
from stdet.engine import gradients
from stdet.engine.gradients import Gradients
from stdet.interfaces.detector import Targets
from stdet.interfaces.reporter import SilentReporter
from stdet.nn.memory import to_device
from stdet.nn.precision import choose_precision
from stdet.structures import Preprocess
from stdet.testing.simulated_cuda import simulated_cuda


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_goes_to_a_gpu_is_pinned_before_and_nothing_else(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    sent = torch.arange(4)
    with simulated_cuda():
        there = to_device(sent, device)
        assert there.device.type == device
        assert there.tolist() == [0, 1, 2, 3]
    assert [one is sent for one in pinned] == ([True] if device == "cuda" else [])


def test_all_of_a_training_batch_goes_that_way(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, ...]] = []

    def record(tensor: Tensor, device: str) -> Tensor:
        sent.append(tuple(tensor.shape))
        return to_device(tensor, device)

    monkeypatch.setattr(gradients, "to_device", record)
    network: Any = torch.nn.Conv2d(3, 1, 1)
    network.spec = SimpleNamespace(preprocess=Preprocess(8, 8))
    network.loss = lambda raw, targets, augmentation_closed: {"total": raw.mean()}
    batch = Batch(
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8), Targets(torch.zeros(2, 5, 4), torch.zeros(2, 5)), indices=[0, 1]
    )
    computed = Gradients(network, network, choose_precision("cpu", False), "cpu", False, SilentReporter())
    computed.compute([batch], augmentation_closed=False)
    assert sorted(sent) == [(2, 3, 8, 8), (2, 5), (2, 5, 4)]
