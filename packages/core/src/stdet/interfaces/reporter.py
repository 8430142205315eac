"""How long work tells people where it stands. Library code reports; only the command line draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Reporter(Protocol):
    """Receives what happens during a run."""

    def stage(self, name: str) -> None:
        """A stage (`train`, `evaluate`, …) begins; the one before it is finished."""

    def progress(self, label: str, done: int, total: int | None, values: Mapping[str, float] | None = None) -> None:
        """`done` of `total` units of `label`; `values` are worth showing beside the bar, such as the loss."""

    def note(self, message: str) -> None:
        """A line for people: a decision, a warning, where a file went."""


class SilentReporter:
    """Says nothing; for scripts and tests."""

    def stage(self, name: str) -> None:
        pass

    def progress(self, label: str, done: int, total: int | None, values: Mapping[str, float] | None = None) -> None:
        pass

    def note(self, message: str) -> None:
        pass
