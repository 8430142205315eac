"""`stdet plugins new`: a package with one working component, made from the templates beside this file."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.resources
import keyword
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from typing import Any

from stdet import __version__
from stdet.errors import ArtifactError, PluginError, UnavailableError
from stdet.known import known
from stdet.plugins import API_VERSION

SUFFIX = ".tmpl"
_NAME = re.compile(r"[a-z]([a-z0-9]*-)*[a-z0-9]+")


@dataclass(frozen=True)
class NewPlugin:
    """Attributes:
    name: of the distribution.
    kind: of its component.
    component: what configs call it.
    folder: that was written.
    files: in it.
    """

    name: str
    kind: str
    component: str
    folder: Path
    files: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The same, JSON-able."""
        return asdict(self) | {"folder": str(self.folder), "files": list(self.files)}


@dataclass(frozen=True)
class _Kind:
    """What differs between the kinds beside their files.

    Attributes:
        summary: of the package.
        needs: distributions that its component imports.
        tests_need: what its tests or a first training need besides.
    """

    summary: str
    needs: tuple[str, ...] = ()
    tests_need: tuple[str, ...] = ()


KINDS = {
    "model": _Kind("A detector", ("torch",), ("stdet-datasets",)),
    "dataset": _Kind("A reader of annotated images", ("numpy", "opencv-python-headless")),
    "transform": _Kind("A training recipe", ("numpy", "opencv-python-headless", "pydantic")),
    "scheduler": _Kind("A learning-rate schedule", ("pydantic",)),
    "target": _Kind("A deploy target", ("numpy", "onnx", "onnxruntime", "pydantic")),
    "board": _Kind("Boards"),
}


def new_plugin(name: str, kind: str, output: Path, licence: str, author: str = "") -> NewPlugin:
    """Write the package `name` into a folder of that name in `output`, all of it or nothing.

    Args:
        kind: key of `KINDS`.
        licence: `Apache-2.0`, `MIT`, `BSD-3-Clause` or `proprietary`.
        author: who holds the rights.

    Raises:
        PluginError: `name` is no name for a distribution, or the package that has the template isn't installed.
        ArtifactError: the folder is there already, or can't be written.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in known().distributions:
        raise PluginError(
            f"{name!r} is no name for a new distribution",
            "small letters, digits and single hyphens, such as acme-detectors",
        )
    folder = output / name
    if folder.exists():
        raise ArtifactError(f"{folder} is there already", "choose another name, or another folder with --output")
    words = _words(name, kind, licence, author or f"The authors of {name}")
    texts = {
        **_filled(importlib.resources.files("stdet.plugins") / "templates" / "common", words),
        **_filled(_template(kind), words),
        "LICENSE": _licence(licence, words),
    }
    modules = sorted(
        path for path in texts if path.startswith("src/") and not path.endswith(("__init__.py", "plugin.py"))
    )
    texts["README.md"] = Template(texts["README.md"]).substitute(
        files="\n".join(f"| `{path}` | {_about(texts[path])} |" for path in modules if texts[path])
    )
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=f".{name}-") as scratch:
            for path, text in texts.items():
                target = Path(scratch, name, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
            shutil.move(Path(scratch, name), folder)
    except OSError as error:
        raise ArtifactError(f"{folder} can't be written: {error.strerror}", "choose a folder with --output") from error
    return NewPlugin(name, kind, words["component"], folder, tuple(sorted(texts)))


def _words(name: str, kind: str, licence: str, author: str) -> dict[str, str]:
    """What stands for each `$word` of the templates."""
    module = name.replace("-", "_")
    major, minor = (int(part) for part in __version__.split(".")[:2])
    core, core_next = f"{major}.{minor}", f"{major}.{minor + 1}"
    needs = [f"stdet-core>={core},<{core_next}", *KINDS[kind].needs]
    if kind in known().templates:
        needs.append(f"{known().templates[kind]}>={core},<{core_next}")
    tests = [f"{need}>={core},<{core_next}" if need.startswith("stdet") else need for need in KINDS[kind].tests_need]
    return {
        "name": name,
        "module": module,
        "entry": name,
        "class": "".join(part.capitalize() for part in name.split("-")),
        "component": name if kind == "board" else module,
        "title": name.upper(),
        "kind": "target" if kind == "board" else kind,
        "summary": KINDS[kind].summary,
        "api": str(API_VERSION),
        "core": core,
        "core_next": core_next,
        "dependencies": ", ".join(f'"{need}"' for need in needs),
        "test_dependencies": "".join(f', "{need}"' for need in tests),
        "licence": {"proprietary": "LicenseRef-Proprietary"}.get(licence, licence),
        "author": author,
        "year": str(datetime.datetime.now(tz=datetime.UTC).year),
        "files": "$files",
    }


def _template(kind: str) -> Traversable:
    """The folder of a kind's template, which may belong to another package of ours."""
    package = known().templates.get(kind)
    if package is None:
        return importlib.resources.files("stdet.plugins") / "templates" / kind
    try:
        return importlib.resources.files(package.replace("-", "_")) / "templates" / kind
    except ModuleNotFoundError as error:
        raise UnavailableError(f"the template of a {kind} is in {package}", f"pip install {package}") from error


def _filled(folder: Traversable, words: dict[str, str]) -> dict[str, str]:
    """Path in the new package to its text."""
    found: dict[str, str] = {}
    for item in folder.iterdir():
        name = Template(item.name.removesuffix(SUFFIX)).substitute(words)
        if item.is_dir():
            found |= {f"{name}/{path}": text for path, text in _filled(item, words).items()}
        elif item.name.endswith(SUFFIX):
            found[name] = Template(item.read_text(encoding="utf-8")).substitute(words)
    return found


def _licence(licence: str, words: dict[str, str]) -> str:
    if licence == "Apache-2.0":  # stdet's own
        files = importlib.metadata.files("stdet-core") or []
        return next(file for file in files if file.name == "LICENSE").read_text(encoding="utf-8")
    template = importlib.resources.files("stdet.plugins") / "templates" / "licences" / f"{licence}.txt{SUFFIX}"
    return Template(template.read_text(encoding="utf-8")).substitute(words)


def _about(text: str) -> str:
    """The first sentence of a module's docstring."""
    found = re.match(r'"""(.+?)[.:]', text)
    return found[1][0].lower() + found[1][1:] if found else "data"
