"""The names that plugins and programs may rely on, held against `public_api.txt`: a change is a decision, not an accident.

After one: python tests/test_public_api.py > tests/public_api.txt. A name or parameter that goes or changes its meaning also
raises `stdet.plugins.API_VERSION`; see docs/plugins.md.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def reference() -> Any:
    """The module that writes the reference pages."""
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def described() -> list[str]:
    """A line a name: classes with the methods and fields that they define, functions with their parameters."""
    pages, lines = reference(), []
    for name in pages.API:
        for attribute, value in pages.public(importlib.import_module(name)):
            path = f"{name}.{attribute}"
            lines.append(path + parameters(value))
            if inspect.isclass(value):
                lines += [f"{path}.{method}{parameters(function)}" for method, function in pages.methods(value)]
    return sorted(set(lines))


def parameters(value: Any) -> str:
    """Names of the parameters, with a `?` where there is a default."""
    if inspect.isclass(value) and (issubclass(value, BaseException) or "__init__" not in vars(value)):
        return ""
    try:
        found = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return ""
    return f"({', '.join(p.name + ('' if p.default is p.empty else '?') for p in found)})"


def test_the_public_names_are_those_that_were_decided() -> None:
    decided = (ROOT / "tests" / "public_api.txt").read_text(encoding="utf-8").splitlines()
    changes = list(difflib.unified_diff(decided, described(), "decided", "found", lineterm="", n=0))
    assert not changes, "\n".join([*changes, __doc__ or ""])


if __name__ == "__main__":
    sys.stdout.write("\n".join(described()) + "\n")
