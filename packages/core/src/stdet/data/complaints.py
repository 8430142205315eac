"""What is wrong with a data set, collected: one error, one warning, or a sink that gets it all."""

from __future__ import annotations

import logging
from collections import Counter

from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, Fault

log = logging.getLogger(__name__)


class Complaints:
    """Collects what is wrong with a data set, and ends in an error or, when the user chose to skip, in one warning.

    With `request.on_fault`, hands it over as it comes, and ends in nothing.
    """

    def __init__(self, request: DatasetRequest) -> None:
        self.sink = request.on_fault
        self.skip = request.on_bad_data == "skip" and self.sink is None
        self._split = request.split
        self._found: Counter[str] = Counter()
        self._examples: dict[str, str] = {}
        self.notes: list[str] = []

    def add(self, kind: str, where: str, count: int = 1) -> None:
        """Note `count` faults of a `kind` (a plural noun), the first of them at `where`."""
        if self.sink is not None:
            self.sink(Fault(kind, where, count))
            return
        self._found[kind] += count
        self._examples.setdefault(kind, where)

    def note(self, note: Fault) -> None:
        """Tell what is no fault."""
        if self.sink is not None:
            self.sink(note)
            return
        self.notes.append(f"{self._split} set: {note.count} {note.kind} ({note.where})")
        log.info("%s", self.notes[-1])

    def settle(self) -> None:
        """Raises:
        DataError: something was found and the config doesn't say to skip it.
        """
        if not self._found:
            return
        text = "; ".join(f"{count} {kind} (first: {self._examples[kind]})" for kind, count in self._found.items())
        if not self.skip:
            raise DataError(f"{self._split} set: {text}", "mend the data, or set dataset.on_bad_data: skip")
        log.warning("%s set: left out %s", self._split, text)
