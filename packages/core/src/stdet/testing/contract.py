"""What the contracts of all kinds share: the component by its registered name, and how a broken demand is told."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from functools import cache
from typing import Any, ClassVar

from stdet.config.schema import SECTIONS
from stdet.interfaces.family import Options
from stdet.plugins.check import HEAVY
from stdet.plugins.loader import load_plugins
from stdet.registry import Catalogue, Entry

PAGE = "docs/contracts.md"
IMPORT_S = 60.0
"""How long a facts module may take to import in a process of its own, seconds."""
_PROBE = (
    "import importlib, sys; importlib.import_module(sys.argv[1]); print(*(m for m in sys.argv[2:] if m in sys.modules))"
)


class BrokenContract(AssertionError):
    """A component does not keep its contract: says which demand, why it is made, what was expected and what was found."""


@cache
def catalogue() -> Catalogue:
    """Every installed component."""
    return load_plugins()[0]


def demand(kept: bool, expected: str, found: object) -> None:
    """Fail with the demand that the calling test states in its docstring, unless it is kept.

    Raises:
        BrokenContract: `kept` is false.
    """
    __tracebackhide__ = True  # pytest shows the line of the contract, not this one
    if kept:
        return
    frame = sys._getframe(1)
    while not frame.f_code.co_name.startswith("test_") and frame.f_back is not None:
        frame = frame.f_back
    test = frame.f_code.co_name
    stated = getattr(type(frame.f_locals.get("self")), test, None)
    raise BrokenContract(
        f"{' '.join((inspect.getdoc(stated) or '').split())}\n"
        f"  expected: {expected}\n"
        f"  found:    {found}\n"
        f"  read:     {PAGE}, {test}"
    )


class Contract:
    """What is demanded of every component, whatever its kind. Set `name`."""

    kind: ClassVar[str]
    name: ClassVar[str]

    def entry(self) -> Entry:
        """What is registered."""
        return catalogue().entry(self.kind, self.name)

    def facts_target(self) -> str | None:
        """The string of what tells the config layer about the component."""
        entry = self.entry()
        return entry.family or entry.facts or entry.options

    def own_keys(self) -> dict[str, type[Options]]:
        """Config section to the class of the keys that the component adds to it."""
        return {}

    def test_what_it_tells_the_config_layer_imports_nothing_heavy(self) -> None:
        """The module of its facts or options imports no torch, torchvision, onnxruntime or matplotlib, nor do the packages
        above it: `stdet config check` and every other quick command import it."""
        if (target := self.facts_target()) is None:
            return
        module = target.partition(":")[0]
        command = [sys.executable, "-c", _PROBE, module, *HEAVY]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=IMPORT_S, env=env)
        why = (done.stderr.strip().splitlines() or ["it ended the process"])[-1]
        demand(done.returncode == 0, f"`import {module}` works in a fresh process", why)
        demand(not done.stdout.strip(), f"`import {module}` leaves them out", f"it imports {done.stdout.strip()}")

    def test_its_config_keys_are_not_taken(self) -> None:
        """No key that it adds to a config section has a meaning there already: a key means one thing, so a config that uses
        the component would be refused."""
        for section, options in self.own_keys().items():
            stolen = sorted(options.model_fields.keys() & SECTIONS[section].model_fields.keys())
            demand(not stolen, f"keys that `{section}` doesn't have", ", ".join(stolen))


def shown(values: Any, limit: int = 8) -> str:
    """A few values for a message."""
    listed = [str(value) for value in values]
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")
