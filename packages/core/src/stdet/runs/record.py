"""The record of a run: what each of its stages left, kept in `run.json` as soon as it is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from stdet.artifacts import ModelFile, sha256_file, write_json
from stdet.runs.environment import environment
from stdet.runs.history import FORMAT, RECORD, RunFolder
from stdet.runs.results import Restored, StageResult
from stdet.structures import Table

R = TypeVar("R", bound=StageResult)


@dataclass
class RunRecord:
    """Attributes:
    folder: everything the run writes lies in it.
    mode: the operation mode.
    writes: whether this process is the one that writes.
    results: of the stages by name, in the order in which they ran.
    steps: the stages that are finished, as `run.json` has them.
    starts: when and where the run was begun, and gone on with.
    data: what each split that was opened holds.
    onnx: the last ONNX file of each form, and its bytes.
    tables: what people should see beside the summary.
    """

    folder: Path
    mode: str = ""
    writes: bool = True
    results: dict[str, StageResult] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    onnx: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The record of a run that was begun before: of its finished stages, whose files are as they were left.

        Raises:
            ArtifactError: no run's folder, its record is damaged, or a file of a finished stage is gone or another.
        """
        found = RunFolder.read(folder)
        found.check()
        done = [name for step in found.steps for name in step["results"]]
        results: dict[str, StageResult] = {name: Restored(name, found.stages[name]) for name in done}
        return cls(folder, found.mode, True, results, found.steps, found.starts, found.data, found.onnx)

    def begin(self) -> None:
        """Note a start of the run: its time and where it is."""
        self.starts.append({"time": datetime.now(UTC).isoformat(timespec="seconds"), "environment": environment()})
        self._write()

    def add(self, result: StageResult) -> None:
        """Keep the result of a stage, so that a later failure loses nothing."""
        self.results[result.name] = result
        for model in result.models():
            if model.is_onnx:
                self.onnx[model.form] = {"path": self._inside(model.path), "bytes": model.path.stat().st_size}
        self._write()

    def finish(
        self, stage: str, names: Sequence[str], seconds: float, model: ModelFile | None, float_onnx: ModelFile | None
    ) -> None:
        """Note that a stage is done.

        Args:
            names: of its results.
            seconds: wall time.
            model, float_onnx: what the next stage works on.
        """
        files = [path for name in names for path in self.results[name].files(self.folder) if path and path.is_file()]
        self.steps.append(
            {
                "stage": stage,
                "results": list(names),
                "seconds": seconds,
                "files": {self._inside(path): sha256_file(path) for path in files if self.writes},
                "model": self._model(model),
                "float_onnx": self._model(float_onnx),
            }
        )
        self._write()

    def left_model(self, which: str) -> ModelFile | None:
        """`model` or `float_onnx` of the last stage that is finished."""
        found = self.steps[-1][which] if self.steps else None
        return None if found is None else ModelFile(self.folder / found["path"], found["kind"])

    def of(self, kind: type[R]) -> list[R]:
        """The results of one kind."""
        return [result for result in self.results.values() if isinstance(result, kind)]

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        stages = {name: result.to_dict() for name, result in self.results.items()}
        about = {name: getattr(self, name) for name in ("mode", "starts", "data", "onnx", "steps")}
        return {"format": FORMAT, "run_dir": str(self.folder), **about, "stages": stages}

    def _write(self) -> None:
        if self.writes:
            write_json(self.folder / RECORD, self.document())

    def _model(self, model: ModelFile | None) -> dict[str, str] | None:
        return None if model is None else {"path": self._inside(model.path), "kind": model.kind}

    def _inside(self, path: Path) -> str:
        """As seen from the run's folder, which may be moved; a file elsewhere by its whole path."""
        whole, folder = path.absolute(), self.folder.absolute()
        return whole.relative_to(folder).as_posix() if whole.is_relative_to(folder) else str(whole)
