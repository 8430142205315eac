"""Where the numbers of a run go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Tracker(Protocol):
    """Receives the numbers of a run."""

    def params(self, params: Mapping[str, Any]) -> None:
        """Settings of the run, flat: dotted key to value."""

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """A point on each of several curves."""

    def close(self) -> None:
        """Flush and end."""
