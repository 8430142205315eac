"""The folder of a run, which no other run writes into, and its log file."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stdet.errors import ConfigError, StdetError
from stdet.interfaces.printable import printable


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
def tool_folder(wanted: Path) -> Iterator[Path]:
    """A new folder for what a tool finds, which is gone again when the block fails before it holds anything."""
    folder = new_folder(wanted)
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


@contextmanager
def log_file(path: Path) -> Iterator[Callable[[str], None]]:
    """The log of a run, for the time of the block: what stdet logs from level INFO on, and what ends the block early.

    Yields:
        A function that adds a text: what people are shown.
    """
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("stdet")
    before = root.level

    def add(text: str, level: int = logging.INFO) -> None:
        handler.handle(root.makeRecord(root.name, level, "", 0, text.rstrip("\n"), (), None))

    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield add
    except BaseException as error:
        notes = getattr(error, "__notes__", ()) if isinstance(error, StdetError) else ()
        text = str(error) if isinstance(error, StdetError) else traceback.format_exc()
        add("\n".join([text, *notes]), logging.ERROR)
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


class _Printable(logging.Formatter):
    """Names from outside stand in it as escapes: a log is looked at on a terminal, too."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")
