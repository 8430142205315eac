"""Checkpoints that unpack to more than they weigh."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from stdet.engine.checkpoint import read_checkpoint
from stdet.errors import ArtifactError, ModelError
from stdet.nn.torch_file import load_tensors
from stdet.nn.weights import read_state_dict


def packed(path: Path, source: Path) -> None:
    """The same entries, deflated; a tensor of zeros becomes a thousandth."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))


def test_a_checkpoint_that_unpacks_to_more_than_it_weighs_is_refused_before_it_is_read(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(1 << 20)}}, tmp_path / "plain.pth")
    packed(tmp_path / "bomb.pth", tmp_path / "plain.pth")
    assert (tmp_path / "bomb.pth").stat().st_size < 1 << 16
    for read, kind in ((load_tensors, ArtifactError), (read_checkpoint, ArtifactError), (read_state_dict, ModelError)):
        with pytest.raises(kind, match="unpacks to 4 MiB from 0"):  # type: ignore[type-var]
            read(tmp_path / "bomb.pth")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_wrote_is_read(tmp_path: Path, zipped: bool) -> None:
    torch.save({"w": torch.arange(5)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert load_tensors(tmp_path / "w.pth")["w"].tolist() == [0, 1, 2, 3, 4]
