"""Several processes: who joins, what they share, and what is said when one of them fails."""

from __future__ import annotations

import importlib
import inspect
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from stdet.errors import ConfigError, ModelError, PeerLost
from stdet.nn.distributed import (
    LONGEST_WAIT,
    any_rank,
    average_buffers,
    distributed_module,
    from_main,
    is_main,
    process_group,
    rank,
    synchronize_batch_norm,
    without_averaging,
)

InTwo = Callable[[Callable[[], Any]], list[Any]]


def environment(number: int, port: str, **changes: str | None) -> dict[str, str]:
    """What torchrun sets."""
    names: dict[str, str | None] = {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    return {key: value for key, value in (names | changes).items() if value is not None}


def test_batch_norm_statistics_become_those_of_all_values_together(in_two_processes: InTwo) -> None:
    values = np.random.default_rng(0).normal([[1.0, 5.0]], [[1.0, 3.0]], (64, 2)).astype(np.float32)
    values[32:] += 4  # what the second process sees lies elsewhere

    def work() -> Any:
        norm = nn.BatchNorm1d(2, momentum=1.0)
        norm(torch.from_numpy(values[rank() * 32 : rank() * 32 + 32]))
        average_buffers(norm)
        return norm.running_mean.numpy(), norm.running_var.numpy()

    for mean, variance in in_two_processes(work):
        np.testing.assert_allclose(mean, values.mean(0), rtol=1e-5)
        np.testing.assert_allclose(variance, values.var(0), rtol=32 / 31 - 1 + 1e-5)  # of a share, the n - 1 form


def accumulate_two(folder: Path) -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = distributed_module(nn.Linear(3, 1))
    calls = []

    def hook(state, bucket):  # DDP wants its own annotations or none
        calls.append(1)
        done: Any = torch.futures.Future()
        dist.all_reduce(bucket.buffer())
        done.set_result(bucket.buffer() / 2)
        return done

    model.register_comm_hook(None, hook)
    batches = torch.arange(12.0).reshape(4, 3)[rank() * 2 : rank() * 2 + 2]
    with without_averaging(model):
        (model(batches[:1]).square().mean() / 2).backward()
    (model(batches[1:]).square().mean() / 2).backward()
    return len(calls), model.module.weight.grad.numpy(), [str(w.message) for w in caught]


def test_accumulated_batches_are_averaged_over_the_processes_once_and_without_a_warning(
    tmp_path: Path, training_in_two: Callable[[Callable[[Path], Any], Path], list[Any]]
) -> None:
    torch.manual_seed(0)
    alone = nn.Linear(3, 1)
    alone(torch.arange(12.0).reshape(4, 3)).square().mean().backward()
    assert alone.weight.grad is not None
    for calls, gradient, warned in training_in_two(accumulate_two, tmp_path):
        assert calls == 1
        np.testing.assert_allclose(gradient, alone.weight.grad.numpy(), rtol=1e-5)
        assert not [text for text in warned if "deprecated" in text]


def test_what_the_main_process_makes_reaches_all_and_its_mistake_is_not_the_others_bug(
    in_two_processes: InTwo,
) -> None:
    def work() -> Any:
        return from_main(lambda: {"made": 1})

    def fail() -> Any:
        def make() -> Any:
            raise ModelError("weights of another model")

        return from_main(make)

    assert in_two_processes(work) == [{"made": 1}] * 2
    first, second = in_two_processes(fail)
    assert (type(first), first.message) == (ModelError, "weights of another model")
    assert (type(second), second.message) == (PeerLost, "the first process failed")


@pytest.mark.parametrize("failing", [0, 1])
def test_a_lost_process_is_no_bug_of_the_others_and_its_message_comes_first(
    failing: int, in_two_processes: InTwo
) -> None:
    def work() -> Any:
        if rank() == failing:
            raise ConfigError("a mistake of this process alone")
        any_rank(False)
        return "went on"

    answers = in_two_processes(work)
    assert answers[failing].message == "a mistake of this process alone"
    other = answers[1 - failing]
    assert (type(other), other.message) == (PeerLost, "another process failed")


def test_the_group_outlives_an_error_until_its_message_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> Any:
        raise AssertionError

    events: list[str] = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend: events.append(backend))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: events.append("destroyed"))
    monkeypatch.setattr("stdet.nn.distributed.atexit.register", lambda work: events.append("later"))
    monkeypatch.setattr("stdet.nn.distributed._wait_long", lambda: None)
    for key, value in environment(0, "1").items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError), process_group("cpu"):
        raise ConfigError("x")
    assert events == ["gloo", "later"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: events.append(f"device {number}"))
    events.clear()
    with pytest.raises(ConfigError), process_group("cuda"):
        raise ConfigError("x")
    assert events == ["device 0", "cpu:gloo,cuda:nccl"]  # NCCL is left to the end of the process


def test_processes_wait_a_day_for_each_other_by_gloo(in_two_processes: InTwo) -> None:
    def work() -> Any:
        dist.barrier()  # neither leaves before both are here
        group: Any = dist.group.WORLD
        return group._get_backend(torch.device("cpu")).options._timeout

    assert in_two_processes(work) == [LONGEST_WAIT] * 2


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine with a single CUDA device; returns the devices that were chosen."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(dist, "init_process_group", lambda backend: None)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setattr("stdet.nn.distributed._wait_long", lambda: None)
    return chosen


@pytest.mark.parametrize(
    ("device", "changes", "chosen"),
    [("cpu", {}, []), ("cpu", {"LOCAL_RANK": None}, []), ("auto", {"LOCAL_RANK": None}, [0])],
)
def test_more_processes_than_gpus_may_train_on_the_cpu(
    device: str, changes: dict[str, str | None], chosen: list[int], one_gpu: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for key, value in environment(1, "1", **changes).items():
        monkeypatch.setenv(key, value)
    with process_group(device):
        pass
    assert one_gpu == chosen


def test_more_processes_than_gpus_cannot_train_on_them(one_gpu: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in environment(1, "1").items():
        monkeypatch.setenv(key, value)
    with (
        pytest.raises(ConfigError, match="process 2 of this machine has no CUDA device: there is 1") as caught,
        process_group(),
    ):
        pass
    assert "nproc_per_node=1" in caught.value.hint
    assert one_gpu == []


def test_a_rank_without_the_rest_of_torchruns_variables_is_the_users_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="can't join the others"), process_group("cpu"):
        pass


def test_votes_are_counted_one_by_one(in_two_processes: InTwo) -> None:
    assert in_two_processes(lambda: any_rank(is_main(), False, True)) == [(True, False, True)] * 2
    assert any_rank(True, False) == (True, False)


def test_batch_norm_is_synchronized_on_cuda_where_several_processes_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    keys = list(model.state_dict())
    synchronize_batch_norm(model, "cuda")
    assert type(model[1]) is nn.BatchNorm2d  # one process has nobody to synchronize with
    monkeypatch.setattr("stdet.nn.distributed.world_size", lambda: 2)
    synchronize_batch_norm(model, "cuda")
    assert type(model[1]) is nn.SyncBatchNorm
    assert list(model.state_dict()) == keys
    with pytest.raises(ConfigError, match="CUDA devices only"):
        synchronize_batch_norm(model, "cpu")


def test_nothing_keeps_the_group_beyond_its_end(in_two_processes: InTwo, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.distributed.nn")]:
        monkeypatch.delitem(sys.modules, name)  # as in a fresh process

    def holders() -> list[str]:
        functional = importlib.import_module("torch.distributed.nn.functional")  # as torch._dynamo does somewhere
        functions = inspect.getmembers(functional, inspect.isfunction)
        return [name for name, function in functions if dist.group.WORLD in (function.__defaults__ or ())]

    assert in_two_processes(holders) == [[], []]
