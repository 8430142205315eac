"""`make release-check`: whether what lies here can be released. Says all that can't, and exits with 2.

Every distribution: its changelog has a section for its version and nothing unreleased above it, its wheel builds with
licence, readme and `py.typed`, and it takes the versions of the others that lie here. Public names are the decided ones
(tests/public_api.txt).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

from packaging.requirements import Requirement

ROOT = Path(__file__).parent
WANTED = (
    "Name",
    "Version",
    "Summary",
    "License-Expression",
    "License-File",
    "Requires-Python",
    "Description-Content-Type",
)


@dataclass(frozen=True)
class Package:
    """A distribution of the repository."""

    folder: Path
    name: str
    version: str
    requires: tuple[Requirement, ...]


def packages(root: Path) -> list[Package]:
    """Every distribution."""
    found = []
    for path in sorted([*root.glob("packages/*/pyproject.toml"), root / "cli" / "pyproject.toml"]):
        project = tomllib.loads(path.read_text(encoding="utf-8"))
        source = path.parent / project["tool"]["hatch"]["version"]["path"]
        version = re.search(r'^__version__ = "(.+)"', source.read_text(encoding="utf-8"), re.M)
        texts = project["project"].get("dependencies", [])
        extras = project["project"].get("optional-dependencies", {}).values()
        requires = tuple(Requirement(text) for group in (texts, *extras) for text in group)
        found.append(Package(path.parent, project["project"]["name"], version[1] if version else "", requires))
    return found


def changelog_faults(package: Package) -> list[str]:
    """What is wrong with a changelog."""
    text = (package.folder / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\S+).*?\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    faults = []
    if sections.get("Unreleased", "").strip():
        faults.append(f"{package.name}: CHANGELOG.md has lines under Unreleased")
    if package.version not in sections:
        faults.append(f"{package.name}: CHANGELOG.md has no section {package.version}")
    return faults


def compatibility_faults(all_of_them: list[Package]) -> list[str]:
    """Ranges that exclude a version that lies here."""
    versions = {package.name: package.version for package in all_of_them}
    return [
        f"{package.name}: {requirement} excludes {versions[requirement.name]}"
        for package in all_of_them
        for requirement in package.requires
        if requirement.name in versions and not requirement.specifier.contains(versions[requirement.name])
    ]


def wheel_faults(package: Package, folder: Path) -> list[str]:
    """What is missing in a wheel."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / package.name)]
    done = subprocess.run(command, cwd=package.folder, capture_output=True, text=True, check=False)
    if done.returncode:
        return [f"{package.name}: no wheel: {done.stderr.strip().splitlines()[-1]}"]
    with ZipFile(next((folder / package.name).glob("*.whl"))) as archive:
        names = archive.namelist()
        metadata = Parser().parsestr(archive.read(next(n for n in names if n.endswith("/METADATA"))).decode())
    faults = [f"{package.name}: its metadata have no {field}" for field in WANTED if not metadata.get(field)]
    if not any(name.endswith("py.typed") for name in names):
        faults.append(f"{package.name}: its wheel has no py.typed")
    return faults


def main() -> int:
    """Print a table of the packages and every fault."""
    found = packages(ROOT)
    print(f"{'package':20} {'version':8} takes")
    for package in found:
        ours = ", ".join(str(r) for r in dict.fromkeys(package.requires) if r.name.startswith("stdet"))
        print(f"{package.name:20} {package.version:8} {ours}")
    faults = [fault for package in found for fault in changelog_faults(package)] + compatibility_faults(found)
    with tempfile.TemporaryDirectory() as folder:
        faults += [fault for package in found for fault in wheel_faults(package, Path(folder))]
    test = [sys.executable, "-m", "pytest", "-q", "tests/test_public_api.py"]
    if subprocess.run(test, cwd=ROOT, capture_output=True, check=False).returncode:
        faults.append("public names changed: python -m pytest tests/test_public_api.py says which")
    print(*(f"- {fault}" for fault in faults), sep="\n")
    print("ready" if not faults else f"{len(faults)} faults")
    return 2 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
