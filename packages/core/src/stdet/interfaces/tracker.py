"""Where the numbers of a run go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

Outcome = Literal["finished", "failed", "stopped"]
"""How a run ended; stopped is by the user."""


class Tracker(Protocol):
    """Receives the numbers of a run. What a method raises costs the run nothing: the tracker is set aside."""

    def params(self, params: Mapping[str, Any]) -> None:
        """Settings of the run, flat: dotted key to value."""

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """A point on each of several curves."""

    def file(self, path: Path) -> None:
        """A file of the run that is worth keeping with its numbers: a model, a report, a picture."""

    def close(self, outcome: Outcome) -> None:
        """Flush and end."""
