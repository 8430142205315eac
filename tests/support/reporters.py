"""A reporter that keeps what a run says to people."""

from __future__ import annotations

from stdet.interfaces.reporter import SilentReporter


class Notes(SilentReporter):
    """Keeps the notes, in `notes`."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)
