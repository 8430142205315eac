"""Checkpoints: what goes in comes out, a failed write keeps the old file, and nothing in a file is executed."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stdet.engine.checkpoint import (
    deterministic,
    generator_states,
    read_checkpoint,
    restore_generators,
    save_checkpoint,
)
from stdet.errors import ArtifactError, ModelError


def test_a_checkpoint_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ckpt.pth"
    save_checkpoint(
        path, {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "epoch": 3, "generators": generator_states()}
    )
    state = read_checkpoint(path)
    assert state["epoch"] == 3
    assert torch.equal(state["model"]["weight"], torch.arange(6.0).reshape(2, 3))


def test_every_generator_continues_where_it_was(tmp_path: Path) -> None:
    np.random.standard_normal()  # leaves a cached gaussian, which the state must keep
    save_checkpoint(tmp_path / "c.pth", {"generators": generator_states()})

    def draw() -> list[float]:
        return [random.random(), float(np.random.standard_normal()), float(torch.rand(1))]

    expected = draw()
    draw()
    restore_generators(read_checkpoint(tmp_path / "c.pth")["generators"])
    assert draw() == expected


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "latest.pth"
    save_checkpoint(path, {"epoch": 1})

    def no_space(obj: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(ArtifactError, match="No space left"):
        save_checkpoint(path, {"epoch": 2})
    assert read_checkpoint(path)["epoch"] == 1
    assert list(tmp_path.iterdir()) == [path]


FILL_THE_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from typing import Any
from stdet.engine.checkpoint import save_checkpoint
from stdet.errors import ArtifactError, ModelError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(Path(sys.argv[1]), {"epoch": 2, "big": torch.zeros(1_000_000)})
except ArtifactError as error:
    print(error)
"""


def test_a_write_that_the_system_cuts_short_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    path = tmp_path / "latest.pth"
    save_checkpoint(path, {"epoch": 1})
    done = subprocess.run([sys.executable, "-c", FILL_THE_DISK, str(path)], capture_output=True, text=True, check=False)
    assert "cannot write" in done.stdout, done.stderr
    assert read_checkpoint(path)["epoch"] == 1
    assert list(tmp_path.iterdir()) == [path]


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch /tmp/stdet_was_here",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(ArtifactError, match="cannot read the checkpoint"):
        read_checkpoint(path)
    assert not Path("/tmp/stdet_was_here").exists()


def test_damaged_foreign_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "none.pth")
    torch.save({"model": {}}, tmp_path / "foreign.pth")
    with pytest.raises(ArtifactError, match="not a training checkpoint"):
        read_checkpoint(tmp_path / "foreign.pth")
    save_checkpoint(tmp_path / "whole.pth", {"model": {"w": torch.zeros(1000)}})
    (tmp_path / "half.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:2000])
    with pytest.raises(ArtifactError, match="cannot read"):
        read_checkpoint(tmp_path / "half.pth")


def test_a_run_on_the_cpu_wakes_no_gpu_and_a_run_on_one_keeps_the_state_of_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a machine with two GPUs, whose runtime is counted."""
    asked: list[str] = []

    def get(device: str) -> torch.Tensor:
        asked.append(f"get {device}")
        return torch.arange(16, dtype=torch.uint8)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: asked.append("all"))
    monkeypatch.setattr(torch.cuda, "get_rng_state", get)
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: asked.append(f"set {state.tolist()[:2]} {device}")
    )
    on_cpu = generator_states("cpu")
    restore_generators(on_cpu, "cpu")
    restore_generators(on_cpu, "cuda")
    assert asked == []
    one = generator_states("cuda")
    assert len(one["cuda"]) == 1
    restore_generators(one, "cuda")
    restore_generators(one, "cpu")
    of_two = [torch.full((16,), n, dtype=torch.uint8) for n in (5, 6)]  # as earlier versions kept them
    restore_generators(one | {"cuda": of_two}, "cuda")
    assert asked == ["get cuda", "set [0, 1] cuda", "set [5, 5] cuda"]


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU; `cpu` brings back the values."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> OnGpu:
        made = torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=values.dtype, device="cuda:0")
        made.values = values
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function is torch.ops.aten._to_copy.default
        return args[0].values


def test_the_tensors_of_a_checkpoint_lie_on_the_cpu(tmp_path: Path) -> None:
    torch._C._ensureCUDADeviceGuardSet()  # so that the type works without a driver
    gpu = OnGpu(torch.arange(3.0))
    save_checkpoint(
        tmp_path / "c.pth", {"model": {"w": gpu}, "optimizer": {"state": {0: {"m": gpu}}, "list": [gpu, 1]}}
    )
    raw = torch.load(tmp_path / "c.pth", weights_only=True)
    found = [raw["model"]["w"], raw["optimizer"]["state"][0]["m"], raw["optimizer"]["list"][0]]
    assert all(type(tensor) is torch.Tensor and tensor.device.type == "cpu" for tensor in found)
    assert all(torch.equal(tensor, torch.arange(3.0)) for tensor in found)


def test_what_has_no_deterministic_form_is_refused_by_name_and_the_setting_ends_with_the_training() -> None:
    def undetermined() -> None:
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)

    with deterministic(False):
        undetermined()
    with pytest.raises(ModelError, match="put_") as caught, deterministic(True):
        undetermined()
    assert "general.deterministic" in caught.value.hint
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="something else"), deterministic(True):
        raise RuntimeError("something else")
