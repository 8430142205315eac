"""Progress for people, on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from stdet.interfaces.printable import printable
from stdet.interfaces.reporter import LineReporter, Reporter, SilentReporter, shown

BAR = 12
TIMES = 21
"""Cells of the time since, the time left, the stroke of the count, and the gaps between the columns."""


def make_reporter(quiet: bool) -> Reporter:
    """The reporter that suits where stderr goes."""
    if quiet:
        return SilentReporter()
    return TerminalReporter() if sys.stderr.isatty() else LineReporter(sys.stderr.write)


class TerminalReporter:
    """A live progress bar with the values that matter beside it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=BAR),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}", markup=False),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=False)
        self._tasks: dict[str, int] = {}

    def stage(self, name: str) -> None:
        self._progress.stop()
        self._tasks.clear()
        for task in list(self._progress.tasks):
            self._progress.remove_task(task.id)
        if name:
            self._progress.console.print(printable(f"== {name}"), markup=False, highlight=False)

    def progress(self, label: str, done: int, total: int | None, values: Mapping[str, float] | None = None) -> None:
        label = printable(label)
        kind = label.split(" ")[0]  # "epoch 3/60" and "epoch 4/60" share one bar
        if kind not in self._tasks:
            self._tasks[kind] = self._progress.add_task(label, total=total, shown="", values={})
            self._progress.start()
        self._progress.update(
            self._tasks[kind],  # type: ignore[arg-type]
            completed=done,
            total=total,
            description=label,
            values=dict(values or {}),
        )
        self._fit()

    def _fit(self) -> None:
        """Show as many of the values as leave labels, bars and counts whole."""
        tasks = self._progress.tasks
        label = max(len(task.description) for task in tasks)
        count = max(len(f"{task.total}") for task in tasks)
        room = self._progress.console.width - label - BAR - 2 * count - TIMES
        for task in tasks:
            kept = task.fields["values"]
            while kept and len(shown(kept)) > room:
                kept.popitem()
            self._progress.update(task.id, shown=shown(kept))

    def note(self, message: str) -> None:
        self._progress.console.print(printable(message), markup=False, highlight=False)
