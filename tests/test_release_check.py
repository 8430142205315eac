"""What `make release-check` finds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def release() -> Any:
    spec = importlib.util.spec_from_file_location("release_check", ROOT / "release_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["release_check"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("# a\n\n## 0.2.0\n\n- new\n", []),
        ("# a\n\n## Unreleased\n\n## 0.2.0\n\n- new\n", []),
        ("# a\n\n## Unreleased\n\n- newer\n\n## 0.2.0\n\n- new\n", ["under Unreleased"]),
        ("# a\n\n## 0.1.0\n\n- old\n", ["no section 0.2.0"]),
    ],
)
def test_a_changelog_tells_of_the_version_and_of_nothing_unreleased(
    release: Any, tmp_path: Path, text: str, faults: list[str]
) -> None:
    (tmp_path / "CHANGELOG.md").write_text(text)
    found = release.changelog_faults(release.Package(tmp_path, "a", "0.2.0", ()))
    assert len(found) == len(faults)
    assert all(wanted in fault for wanted, fault in zip(faults, found, strict=True))


def test_a_range_that_excludes_a_version_beside_it_is_a_fault(release: Any, tmp_path: Path) -> None:
    core = release.Package(tmp_path, "stdet-core", "0.2.0", ())
    old = release.Package(tmp_path, "a", "1.0", (Requirement("stdet-core>=0.1,<0.2"), Requirement("numpy>=99")))
    new = release.Package(tmp_path, "b", "1.0", (Requirement("stdet-core[plots]>=0.2,<0.3"),))
    assert [fault.partition(":")[0] for fault in release.compatibility_faults([core, old, new])] == ["a"]


def test_the_packages_here_take_each_other_and_the_citation_names_their_version(release: Any) -> None:
    found = release.packages(ROOT)
    assert len(found) == 6
    assert release.compatibility_faults(found) == []
    core = next(package.version for package in found if package.name == "stdet-core")
    assert f"\nversion: {core}\n" in (ROOT / "CITATION.cff").read_text()
