"""How long work tells people where it stands. Library code reports; only the command line draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Protocol

from stdet.interfaces.printable import printable

LINE_SECONDS = 10.0
"""Where there is no terminal, a progress line is written at most this often."""


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


class Reporters:
    """Several reporters as one."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def stage(self, name: str) -> None:
        for reporter in self._reporters:
            reporter.stage(name)

    def progress(self, label: str, done: int, total: int | None, values: Mapping[str, float] | None = None) -> None:
        for reporter in self._reporters:
            reporter.progress(label, done, total, values)

    def note(self, message: str) -> None:
        for reporter in self._reporters:
            reporter.note(message)


def shown(values: Mapping[str, float] | None) -> str:
    """Values beside a bar: names and four digits."""
    return "  ".join(f"{name} {value:.4g}" for name, value in (values or {}).items())


class LineReporter:
    """Lines of text with rate and time left; for logs and pipes.

    Attributes:
        write: gets each line, ended.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write
        self._last = 0.0
        self._begun: dict[str, tuple[float, int]] = {}  # kind of work to its first report: when, and what was done

    def stage(self, name: str) -> None:
        self._begun.clear()
        if name:
            self.write(printable(f"== {name}\n"))

    def progress(self, label: str, done: int, total: int | None, values: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        kind = label.split(" ")[0]  # "epoch 3/60" and "epoch 4/60" are one work
        if done <= self._begun.get(kind, (now, done))[1]:
            self._begun[kind] = now, done
        if now - self._last >= LINE_SECONDS or done == total:
            self._last = now
            pace = self._pace(kind, now, done, total)
            line = f"{printable(label)}: {done}{f'/{total}' if total else ''}{pace}  {shown(values)}"
            self.write(f"{line.rstrip()}\n")

    def _pace(self, kind: str, now: float, done: int, total: int | None) -> str:
        """Units a second since the beginning of the work, and how long the rest takes at this rate."""
        begun, done_then = self._begun[kind]
        if done <= done_then or now <= begun:
            return ""
        rate = (done - done_then) / (now - begun)
        left = f", {timedelta(seconds=round((total - done) / rate))} left" if total and done < total else ""
        return f" ({rate:.3g}/s{left})"

    def note(self, message: str) -> None:
        self.write(printable(f"{message}\n"))
