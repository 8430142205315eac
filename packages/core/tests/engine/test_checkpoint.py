"""Checkpoints: what goes in comes out, a failed write keeps the old file, and nothing in a file is executed."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stdet.engine.checkpoint import generator_states, read_checkpoint, restore_generators, save_checkpoint
from stdet.errors import ArtifactError


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
from stdet.engine.checkpoint import save_checkpoint
from stdet.errors import ArtifactError
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
