"""What data set a folder holds, as the installed readers see it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stdet.data.folder import SUFFIXES
from stdet.errors import DataError
from stdet.interfaces.dataset import ReaderFacts
from stdet.registry import Catalogue


def keys_of(folder: Path, catalogue: Catalogue, only: str | None = None) -> dict[str, Any]:
    """The keys of a `dataset` section that read what is in a folder.

    Args:
        only: this format; None asks every reader.

    Raises:
        DataError: there is no folder, or no annotation of a known format in it, or of several formats.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder at {folder}", "paths are relative to the folder you run stdet in")
    found: dict[str, Mapping[str, Any]] = {}
    for name in [only] if only else catalogue.names("datasets"):
        if keys := catalogue.reader(name).find(folder):
            found[name] = keys
    if len(found) > 1:
        raise DataError(
            f"{folder} holds annotations of several formats: {', '.join(found)}",
            f"--format {next(iter(found))} takes one",
        )
    if not found:
        raise _nothing_in(folder, catalogue, only)
    ((name, keys),) = found.items()
    return {"dataset_name": name, **keys}


def _nothing_in(folder: Path, catalogue: Catalogue, only: str | None) -> DataError:
    count = sum(Path(name).suffix.lower() in SUFFIXES for _, _, names in os.walk(folder) for name in names)
    able = (name for name in catalogue.names("datasets") if catalogue.reader(name).find is not ReaderFacts.find)
    formats = list(able) if only is None else [only]
    known = ", ".join(formats)
    if not count:
        return DataError(f"{folder} holds no image and no annotation that is known ({known})", "check the path")
    return DataError(
        f"{folder} holds {count} images, but no annotations that are known ({known})",
        f"draw boxes with any tool that exports one of these: {known}; or let a trained model look at them: stdet predict "
        f"CONFIG dataset.prediction_path={folder}",
    )


def overrides_of(keys: Mapping[str, Any]) -> list[str]:
    """The same as `key=value`."""
    return [f"dataset.{key}={json.dumps(value, default=str)}" for key, value in keys.items()]
