"""The numbers of a run as plain files: JSON lines and CSV, for every tool that reads text."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from stdet.interfaces.tracker import Outcome


class JsonLinesTracker:
    """`metrics.jsonl`: an object a line, each with `step`, or with `params`, `file` or `outcome`."""

    def __init__(self, folder: Path) -> None:
        self._file = _open(folder / "metrics.jsonl")

    def params(self, params: Mapping[str, Any]) -> None:
        self._write({"params": dict(params)})

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._write({"step": step, **scalars})

    def file(self, path: Path) -> None:
        self._write({"file": str(path)})

    def close(self, outcome: Outcome) -> None:
        self._write({"outcome": outcome})
        self._file.close()

    def _write(self, document: dict[str, Any]) -> None:
        self._file.write(json.dumps(document, ensure_ascii=False, default=str) + "\n")
        self._file.flush()


class CsvTracker:
    """`metrics.csv`: columns step, name, value; a row a number, since curves come and go during a run."""

    def __init__(self, folder: Path) -> None:
        self._file = _open(folder / "metrics.csv")
        self._rows = csv.writer(self._file, lineterminator="\n")
        if self._file.tell() == 0:
            self._rows.writerow(["step", "name", "value"])

    def params(self, params: Mapping[str, Any]) -> None:
        """They are in config.yaml."""

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._rows.writerows([step, name, repr(float(value))] for name, value in scalars.items())
        self._file.flush()

    def file(self, path: Path) -> None:
        """Files have no place in a table of numbers."""

    def close(self, outcome: Outcome) -> None:
        self._file.close()


def _open(path: Path) -> TextIO:
    """A run that goes on adds to what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8", newline="")
