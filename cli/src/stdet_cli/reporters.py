"""Progress for people, on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta

from stdet.interfaces.reporter import Reporter, SilentReporter
from stdet_cli.printable import printable

LINE_SECONDS = 10.0
"""Where there is no terminal, a progress line is printed at most this often."""


def make_reporter(quiet: bool) -> Reporter:
    """The reporter that suits where stderr goes."""
    if quiet:
        return SilentReporter()
    return TerminalReporter() if sys.stderr.isatty() else LineReporter()


def _shown(values: Mapping[str, float] | None) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in (values or {}).items())


class LineReporter:
    """Lines of text with rate and time left; for logs and pipes."""

    def __init__(self) -> None:
        self._last = 0.0
        self._begun: dict[str, tuple[float, int]] = {}  # kind of work to its first report: when, and what was done

    def stage(self, name: str) -> None:
        self._begun.clear()
        if name:
            sys.stderr.write(printable(f"== {name}\n"))

    def progress(self, label: str, done: int, total: int | None, values: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        kind = label.split(" ")[0]  # "epoch 3/60" and "epoch 4/60" are one work
        if done <= self._begun.get(kind, (now, done))[1]:
            self._begun[kind] = now, done
        if now - self._last >= LINE_SECONDS or done == total:
            self._last = now
            pace = self._pace(kind, now, done, total)
            sys.stderr.write(f"{printable(label)}: {done}{f'/{total}' if total else ''}{pace}  {_shown(values)}\n")

    def _pace(self, kind: str, now: float, done: int, total: int | None) -> str:
        """Units a second since the beginning of the work, and how long the rest takes at this rate."""
        begun, done_then = self._begun[kind]
        if done <= done_then or now <= begun:
            return ""
        rate = (done - done_then) / (now - begun)
        left = f", {timedelta(seconds=round((total - done) / rate))} left" if total and done < total else ""
        return f" ({rate:.3g}/s{left})"

    def note(self, message: str) -> None:
        sys.stderr.write(printable(f"{message}\n"))


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
            BarColumn(bar_width=30),
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
            self._tasks[kind] = self._progress.add_task(label, total=total, shown="")
            self._progress.start()
        self._progress.update(
            self._tasks[kind],  # type: ignore[arg-type]
            completed=done,
            total=total,
            description=label,
            shown=_shown(values),
        )

    def note(self, message: str) -> None:
        self._progress.console.print(printable(message), markup=False, highlight=False)
