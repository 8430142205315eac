"""A tracker that talks to somewhere else, at a distance: whatever it does, nothing waits for it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stdet.interfaces.tracker import Outcome, Tracker

LAST_WAIT_S = 30.0
"""How long the end of a run waits until everything has arrived."""


class NotInTime(Exception):
    """The tracker didn't take everything within `LAST_WAIT_S`."""


class Background:
    """Makes a tracker and hands it its work in a thread of its own, in order."""

    def __init__(self, make: Callable[[], Tracker]) -> None:
        self._make = make
        self._work: queue.SimpleQueue[Callable[[Tracker], None] | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)  # it can't hold up the end
        self._thread.start()

    def params(self, params: Mapping[str, Any]) -> None:
        self._put(lambda tracker: tracker.params(params))

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._put(lambda tracker: tracker.scalars(step, scalars))

    def file(self, path: Path) -> None:
        self._put(lambda tracker: tracker.file(path))

    def close(self, outcome: Outcome) -> None:
        """Raises:
        NotInTime: what is left is left.
        """
        self._put(lambda tracker: tracker.close(outcome))
        self._work.put(None)
        self._thread.join(LAST_WAIT_S)
        if self._thread.is_alive():
            raise NotInTime(f"it did not take everything within {LAST_WAIT_S:g} s")
        self._raise_failure()

    def _put(self, work: Callable[[Tracker], None]) -> None:
        self._raise_failure()
        self._work.put(work)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            tracker = self._make()
            while (work := self._work.get()) is not None:
                work(tracker)
        except Exception as error:  # told at the next call
            self._failure = error
