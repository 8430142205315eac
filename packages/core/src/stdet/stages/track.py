"""What a tracker is told of a stage's result: numbers under names that don't change, and the files worth keeping."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from stdet.build import flat_settings
from stdet.extras import has
from stdet.interfaces.tracker import Tracker
from stdet.nn.distributed import is_main
from stdet.runs.results import Benched, Evaluated, Quantized, StageResult, Trained
from stdet.stages.run import Run
from stdet.tracking import TrackedRun, Trackers, open_trackers


def trackers_of(run: Run) -> AbstractContextManager[Trackers]:
    """The trackers that the config asks for, beside the text files that every run leaves; in the process that writes."""
    config = run.builder.config
    if not is_main():
        return nullcontext(Trackers())
    names = ["csv", "jsonl"]
    if config.mode.trains and config.general.logger is not None and has(config.general.logger):
        names.append(config.general.logger)
    if config.mlflow.uri:
        names.append("mlflow")
    about = TrackedRun(run.folder, run.models, config.general.project_name, config.mlflow.uri, flat_settings(config))
    return open_trackers(names, about, run.reporter.note)


def track(tracker: Tracker, result: StageResult, folder: Path) -> None:
    """Pass on what `result` says; `folder` is the run's."""
    numbers = {name: float(value) for name, value in _numbers(result) if value is not None}
    if numbers:
        tracker.scalars(result.best_epoch if isinstance(result, Trained) else 0, numbers)
    for path in result.files(folder):
        if path is not None and path.is_file():
            tracker.file(path)


def _numbers(result: StageResult) -> Iterator[tuple[str, float | None]]:
    if isinstance(result, Trained):
        yield from (("final/best_AP", result.best_ap), ("final/best_AP50", result.best_ap50))
    if isinstance(result, Evaluated):
        yield from ((f"{result.split}_{result.form}/{name}", value) for name, value in result.report.scalars().items())
    if isinstance(result, Quantized):
        yield "int8/size_kib", result.size_bytes / 1024
    if isinstance(result, Benched):
        for model, report in result.reports:
            where = f"bench_{model.form}/{report.backend}"
            yield from (
                (f"{where}_latency_ms", report.latency_ms),
                (f"{where}_weights_bytes", report.weights_bytes),
                (f"{where}_activations_bytes", report.activations_bytes),
                (f"{where}_macc", report.macc),
            )
