"""The record of a run: the result of each of its stages, kept in `run.json` as soon as it is there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from stdet.artifacts import write_json
from stdet.runs.results import StageResult
from stdet.structures import Table

FORMAT = "stdet.run/2"
R = TypeVar("R", bound=StageResult)


@dataclass
class RunRecord:
    """Attributes:
    folder: everything the run writes lies in it.
    writes: whether this process is the one that writes.
    results: of the stages by name, in the order in which they ran.
    tables: what people should see beside the summary.
    """

    folder: Path
    writes: bool = True
    results: dict[str, StageResult] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)

    def add(self, result: StageResult) -> None:
        """Keep the result of a stage and write `run.json`, so that a later failure loses nothing."""
        self.results[result.name] = result
        if self.writes:
            write_json(self.folder / "run.json", self.document())

    def of(self, kind: type[R]) -> list[R]:
        """The results of one kind."""
        return [result for result in self.results.values() if isinstance(result, kind)]

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        stages = {name: result.to_dict() for name, result in self.results.items()}
        return {"format": FORMAT, "run_dir": str(self.folder), "stages": stages}
