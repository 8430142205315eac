"""One-file plugins: `--plugin FILE` on any command, for trying a component before there is a package.

The files are in `STDET_PLUGIN_FILES`, so that the worker processes of a training know them, too. A file is imported as the
module that it is; its folder stands last in the search path, where it shadows nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

from stdet.errors import PluginError

FILES = "STDET_PLUGIN_FILES"
"""Environment variable: paths of one-file plugins, separated as those of `PATH` are."""
OPTION = "--plugin"


def take_option(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command without `--plugin FILE`, wherever it stands; its files are loaded from now on.

    Raises:
        PluginError: a file is missing or can't be a module.
    """
    rest: list[str] = []
    given: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == OPTION:
            given.append(next(words, ""))
        elif word.startswith(f"{OPTION}="):
            given.append(word.partition("=")[2])
        else:
            rest.append(word)
    if given:
        known = [path for path in os.environ.get(FILES, "").split(os.pathsep) if path]
        os.environ[FILES] = os.pathsep.join(dict.fromkeys([*known, *(str(_checked(Path(path))) for path in given)]))
    return rest


def file_points() -> list[EntryPoint]:
    """An entry point for each one-file plugin; their folders are in the search path afterwards.

    Raises:
        PluginError: a file is missing or can't be a module, or an installed module has its name.
    """
    points = []
    for text in filter(None, os.environ.get(FILES, "").split(os.pathsep)):
        path = _checked(Path(text))
        folder = str(path.parent)
        if folder not in sys.path:
            sys.path.append(folder)
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), folder)))
        spec = find_spec(path.stem)
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != path:
            where = getattr(spec, "origin", None) or "part of Python"
            raise PluginError(
                f"{path} can't be imported: `{path.stem}` is {where} already", "give the file another name"
            )
        points.append(EntryPoint(path.stem, path.stem, "stdet"))
    return points


def file_of(point: EntryPoint) -> str:
    """The name of the file that a one-file plugin stands for; empty for an installed one."""
    if point.dist is not None:
        return ""
    stems = {Path(text).stem: Path(text).name for text in os.environ.get(FILES, "").split(os.pathsep)}
    return stems.get(point.value, "")


def _checked(path: Path) -> Path:
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise PluginError(f"`{path}` is no Python file of a plugin", f"{OPTION} my_model.py")
    path = path.expanduser().resolve()
    if not path.is_file():
        raise PluginError(f"there is no file {path}", f"{OPTION} names a Python file with hooks")
    return path
