"""What the stages of one run share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stdet.artifacts import ModelFile, write_json
from stdet.build import Builder
from stdet.interfaces.reporter import Reporter
from stdet.nn.distributed import is_main
from stdet.structures import Table


@dataclass
class Run:
    """One run: its builder, its folder, and the model file that the last stage left.

    Attributes:
        folder: everything the run writes lies in it.
        models: `folder` / `general.saved_models_dir`.
        model: what the next stage works on; None before the first.
        float_onnx: the float ONNX of this run, once there is one.
        tables: what people should see beside the summary.
    """

    builder: Builder
    folder: Path
    reporter: Reporter
    model: ModelFile | None = None
    float_onnx: ModelFile | None = None
    results: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)

    @property
    def models(self) -> Path:
        return self.folder / self.builder.config.general.saved_models_dir

    def record(self, stage: str, result: Any) -> None:
        """Keep the result of a stage and write `run.json`, so that a later failure loses nothing."""
        self.results[stage] = result
        if not is_main():
            return
        write_json(self.folder / "run.json", self.document())

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"format": "stdet.run/2", "run_dir": str(self.folder), "stages": self.results}
