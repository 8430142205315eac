"""What each stage found out, and how `run.json` and `--json` say it."""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stdet.artifacts import ModelFile
from stdet.structures import Thresholds

if TYPE_CHECKING:
    from stdet.evaluation.coco import EvaluationReport
    from stdet.evaluation.drop import Verdict
    from stdet.export.onnx import ExportReport
    from stdet.interfaces.deploy import BenchReport, DeployReport


class StageResult(ABC):
    """What a stage leaves beside its files."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its key under `stages`."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any] | list[dict[str, Any]]:
        """What stands there; JSON values only."""

    def models(self) -> tuple[ModelFile, ...]:
        """The model files that it made or looked at."""
        return ()

    def files(self, folder: Path) -> tuple[Path | None, ...]:
        """What the stage wrote and what is worth keeping of it; None for what wasn't asked for. `folder` is the run's."""
        return ()


@dataclass(frozen=True)
class Restored(StageResult):
    """What an earlier start of the run found out, as its record has it."""

    stage: str
    document: dict[str, Any] | list[dict[str, Any]]

    @property
    def name(self) -> str:
        return self.stage

    def to_dict(self) -> dict[str, Any] | list[dict[str, Any]]:
        return self.document


@dataclass(frozen=True)
class Trained(StageResult):
    """Attributes:
    best, latest: checkpoints.
    best_epoch, best_ap: of the best one; None when no epoch was scored.
    best_ap50: the highest of any epoch.
    seconds: wall time.
    curves: picture of the losses and scores; None without matplotlib.
    """

    best: ModelFile
    latest: Path
    best_epoch: int
    best_ap: float
    best_ap50: float | None
    seconds: float
    curves: Path | None

    name = "train"

    def models(self) -> tuple[ModelFile, ...]:
        return (self.best,)

    def files(self, folder: Path) -> tuple[Path | None, ...]:
        return (self.best.path, self.best.path.with_name("history.json"), self.curves)

    def to_dict(self) -> dict[str, Any]:
        return {
            "best_checkpoint": str(self.best.path),
            "latest_checkpoint": str(self.latest),
            "best_epoch": self.best_epoch,
            "best_AP": self.best_ap,
            "best_AP50": self.best_ap50,
            "seconds": self.seconds,
            "curves": str(self.curves) if self.curves is not None else None,
        }


@dataclass(frozen=True)
class Exported(StageResult):
    """The float ONNX of a checkpoint."""

    model: ModelFile
    report: ExportReport

    name = "export"

    def models(self) -> tuple[ModelFile, ...]:
        return (self.model,)

    def files(self, folder: Path) -> tuple[Path | None, ...]:
        return (self.model.path,)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self.report)


def evaluation_name(model: ModelFile | None) -> str:
    """What the evaluation of a model is called, in the record and in the names of its files."""
    return f"evaluate_{model.form if model is not None else 'float'}"


@dataclass(frozen=True)
class Evaluated(StageResult):
    """Attributes:
    model: what was scored; None for a model without a file.
    split: the set that it was scored on.
    picture: detections drawn on its first images; None where `plot_metrics` is False.
    precision_recall: picture of the curves; None there, too, and without matplotlib.
    """

    model: ModelFile | None
    report: EvaluationReport
    split: str
    picture: Path | None
    precision_recall: Path | None

    @property
    def form(self) -> Literal["float", "int8"]:
        """Of the model; what has no file is float."""
        return self.model.form if self.model is not None else "float"

    @property
    def name(self) -> str:
        return evaluation_name(self.model)

    def models(self) -> tuple[ModelFile, ...]:
        return (self.model,) if self.model is not None else ()

    def files(self, folder: Path) -> tuple[Path | None, ...]:
        return (folder / "reports" / f"{self.name}.json", self.picture, self.precision_recall)

    def to_dict(self) -> dict[str, Any]:
        pictures = {"picture": self.picture, "precision_recall": self.precision_recall}
        files = {name: None if path is None else str(path) for name, path in pictures.items()}
        document = self.report.to_dict() | {"split": self.split} | files
        del document["draws"]  # long, and of use in the report's own file only
        return document


@dataclass(frozen=True)
class Quantized(StageResult):
    """Attributes:
    model: the int8 file, under the name that it deserves.
    size_bytes: of that file.
    source: its float form; None when another tool's int8 file was brought into form.
    record: what the target says of its work.
    verdict: on the budget, where there is one.
    """

    model: ModelFile
    size_bytes: int
    source: ModelFile | None
    record: Mapping[str, Any]
    verdict: Verdict | None = None

    name = "quantize"

    def models(self) -> tuple[ModelFile, ...]:
        return (self.model,) if self.source is None else (self.source, self.model)

    def files(self, folder: Path) -> tuple[Path | None, ...]:
        return (self.model.path,)

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.model.path),
            **({} if self.source is None else {"float_path": str(self.source.path)}),
            **self.record,
            **({} if self.verdict is None else {"drop": self.verdict.to_dict()}),
            "size_kib": self.size_bytes / 1024,
        }


@dataclass(frozen=True)
class NotQuantized(StageResult):
    """The target did its work and wouldn't write the result: why, and what it found."""

    reason: str
    record: Mapping[str, Any]

    name = "quantize"

    def to_dict(self) -> dict[str, Any]:
        return {"rejected": self.reason, **self.record}


@dataclass(frozen=True)
class Predicted(StageResult):
    """Attributes:
    images: how many.
    folder: of the pictures and `predictions.json`.
    thresholds: which candidates counted as detections.
    """

    images: int
    folder: Path
    thresholds: Thresholds

    name = "predict"

    def files(self, folder: Path) -> tuple[Path | None, ...]:
        return (self.folder / "predictions.json",)

    def to_dict(self) -> dict[str, Any]:
        return {"images": self.images, "folder": str(self.folder), "thresholds": self.thresholds.to_dict()}


@dataclass(frozen=True)
class Benched(StageResult):
    """What each backend found out about each model file, in the order of the work."""

    reports: tuple[tuple[ModelFile, BenchReport], ...]

    name = "bench"

    def models(self) -> tuple[ModelFile, ...]:
        return tuple(model for model, _ in self.reports)

    def files(self, folder: Path) -> tuple[Path | None, ...]:
        return (folder / "reports" / "bench.json",)

    def to_dict(self) -> list[dict[str, Any]]:
        documents = [dataclasses.asdict(report) | {"form": model.form} for model, report in self.reports]
        return json.loads(json.dumps(documents))  # type: ignore[no-any-return]  # tuples become lists


@dataclass(frozen=True)
class Deployed(StageResult):
    """Attributes:
    model: what was deployed.
    report: what the target wrote.
    thresholds: of the device.
    picture: where the test vector's picture came from.
    """

    model: ModelFile
    report: DeployReport
    thresholds: Thresholds
    picture: str

    name = "deploy"

    def models(self) -> tuple[ModelFile, ...]:
        return (self.model,)

    def files(self, folder: Path) -> tuple[Path | None, ...]:
        return tuple(self.report.folder / name for name in self.report.files)

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": str(self.model.path),
            "folder": str(self.report.folder),
            "files": list(self.report.files),
            "thresholds": self.thresholds.to_dict(),
            "picture": self.picture,
            "boxes": self.report.boxes,
        }
