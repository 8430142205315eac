"""Wheels of all six distributions, and clean environments in which some of them are installed.

An environment holds what the wheels declare and nothing else: the libraries of the environment that runs the tests are
linked into it one by one, as far as somebody's metadata asks for them. Nothing is fetched, and it takes seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Wheel:
    """A built wheel."""

    path: Path

    def names(self) -> list[str]:
        with ZipFile(self.path) as archive:
            return archive.namelist()

    def metadata(self) -> Message:
        name = next(name for name in self.names() if name.endswith(".dist-info/METADATA"))
        with ZipFile(self.path) as archive:
            return Parser().parsestr(archive.read(name).decode())


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def stdet(self, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The installed command."""
        return self._run([self.folder / "bin" / "stdet", *arguments], cwd)

    def execute(self, code: str, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self._run([self.python, "-c", code, *arguments], cwd)

    def _run(self, command: Iterable[object], cwd: Path | None) -> subprocess.CompletedProcess[str]:
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "STDET_PLUGINS", "VIRTUAL_ENV")}
        return subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
            env=env,
            cwd=cwd or self.folder,
        )


Install = Callable[..., Environment]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Wheel]:
    """Every distribution of the repository, built, by name."""
    folder = tmp_path_factory.mktemp("wheels")
    built = {}
    for source in [*sorted((ROOT / "packages").iterdir()), ROOT / "cli"]:
        target = folder / source.name
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        wheel = Wheel(next(target.glob("*.whl")))
        built[wheel.metadata()["Name"]] = wheel
    return built


@pytest.fixture(scope="session")
def install(wheels: dict[str, Wheel], tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Makes an environment from requirements such as `stdet-core[plots]`; the same ones give the same environment."""
    made: dict[tuple[str, ...], Environment] = {}

    def make(*requirements: str) -> Environment:
        if requirements not in made:
            folder = tmp_path_factory.mktemp("environment")
            venv.create(folder, symlinks=True, with_pip=False)
            ours, others = closure(requirements, wheels)
            site = next(folder.glob("lib/python*/site-packages"))
            for name in others:
                link(installed(name), site)
            environment = Environment(folder)
            pip = [sys.executable, "-m", "pip", "--python", str(environment.python), "install", "-q"]
            pip += ["--no-deps", "--no-index", "--no-compile", *(str(wheels[name].path) for name in ours)]
            done = subprocess.run(pip, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            made[requirements] = environment
        return made[requirements]

    return make


def closure(requirements: Iterable[str], wheels: dict[str, Wheel]) -> tuple[list[str], list[str]]:
    """What pip would install for `requirements`: distributions of ours, and of others."""
    todo = [Requirement(text) for text in requirements]
    seen: set[tuple[str, str]] = set()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        declared = wheels[name].metadata().get_all("Requires-Dist") if name in wheels else installed(name).requires
        for extra in ("", *wanted.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for requirement in map(Requirement, declared or ()):
                if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                    todo.append(requirement)
    names = sorted({name for name, _ in seen})
    return [n for n in names if n in wheels], [n for n in names if n not in wheels]


def installed(name: str) -> Distribution:
    """A library of the environment that runs the tests."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        pytest.fail(
            f"{name} is declared by a distribution and not installed here: `make` installs all that is declared"
        )


def link(library: Distribution, site: Path) -> None:
    """Make an installed library visible in the folder `site`."""
    for top in {file.parts[0] for file in library.files or ()} - {"..", "__pycache__"}:
        target = Path(str(library.locate_file(top)))
        if not top.endswith(".pth") and target.exists() and not (site / top).exists():
            (site / top).symlink_to(target)
