"""What the stages of one run share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stdet.artifacts import ModelFile
from stdet.build import Builder
from stdet.engine.callbacks import Callback
from stdet.interfaces.reporter import Reporter
from stdet.interfaces.tracker import Tracker
from stdet.runs.record import RunRecord
from stdet.tracking import Trackers


@dataclass
class Run:
    """One run: its builder, its record, and the model file that the last stage left.

    Attributes:
        record: the results of the stages so far; knows the run's folder.
        model: what the next stage works on; None before the first.
        float_onnx: the float ONNX of this run, once there is one.
        callbacks: of the caller's, for the training.
        tracker: where the numbers and files of all stages go; nowhere by default.
    """

    builder: Builder
    record: RunRecord
    reporter: Reporter
    model: ModelFile | None = None
    float_onnx: ModelFile | None = None
    callbacks: Sequence[Callback] = ()
    tracker: Tracker = field(default_factory=Trackers)

    @property
    def folder(self) -> Path:
        """Everything the run writes lies in it."""
        return self.record.folder

    @property
    def models(self) -> Path:
        """`folder` / `general.saved_models_dir`."""
        return self.folder / self.builder.config.general.saved_models_dir
