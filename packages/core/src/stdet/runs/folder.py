"""The folder of a run, which no other run writes into, and its log file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stdet.errors import ConfigError


def new_folder(wanted: Path) -> Path:
    """Make `wanted`, or `wanted_1`, `wanted_2`, … : a run never writes into another one's folder.

    Raises:
        ConfigError: none of them can be made.
    """
    if wanted.name in ("", ".."):
        raise ConfigError(f"hydra.run.dir is {wanted}, which is no new folder", "name one, such as ./runs/first")
    for suffix in ["", *(f"_{i}" for i in range(1, 1000))]:
        folder = wanted.with_name(wanted.name + suffix)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"cannot make the run folder {folder}: {error.strerror}", "set hydra.run.dir") from error
        return folder
    raise ConfigError(f"{wanted} and a thousand folders named after it exist", "set hydra.run.dir")


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """Everything that stdet logs from level INFO on goes to `path`, too."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("stdet")
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()
