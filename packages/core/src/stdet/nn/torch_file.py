"""Reads files of `torch.save` from anybody: nothing in them runs, and they unpack to no more than they weigh."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

from stdet.errors import ArtifactError


def load_tensors(path: Path) -> Any:
    """What `torch.save` wrote to `path`, on the CPU.

    Raises:
        ArtifactError: its parts claim more bytes than the file has: torch never packs, so somebody else did.
        OSError, RuntimeError, …: as `torch.load`, of a file that is missing or damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > (size := path.stat().st_size):
            raise ArtifactError(
                f"{path} unpacks to {unpacked / (1 << 20):.0f} MiB from {size / (1 << 20):.0f}: it wasn't written by torch",
                "save the checkpoint again with torch.save",
            )
    return torch.load(path, map_location="cpu", weights_only=True)
