"""What a model file scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from stdet.artifacts import ModelFile
from stdet.config import unlike_published
from stdet.engine.checkpoint import saved_spec
from stdet.errors import Rejected
from stdet.evaluation.coco import EvaluationReport
from stdet.evaluation.plots import (
    SHEET_PX,
    contact_sheet,
    draw_detections,
    plot_precision_recall,
    save_image,
    with_legend,
)
from stdet.evaluation.postprocess import detect
from stdet.evaluation.predictors import Predictor
from stdet.export.metadata import is_unfit_for_accuracy
from stdet.extras import has
from stdet.interfaces.dataset import DetectionDataset
from stdet.nn.distributed import is_main
from stdet.reports.evaluation_page import Compared, comparison_table
from stdet.runs.results import Evaluated, evaluation_name
from stdet.stages.data import open_for_scoring
from stdet.stages.judged import Seen, compared, read_baseline, with_draws, write_page
from stdet.stages.models import model_file, place_of, predictor_of
from stdet.stages.run import Run
from stdet.stages.scoring import score
from stdet.structures import SHOWN_FROM, DetectorSpec

PAGE = "report.html"
PICTURES = 12
"""Images of the evaluation set that are drawn."""


def evaluate(run: Run) -> None:
    """Score the run's model on the test set, or on the validation set when there is no test set.

    Raises:
        Rejected: AP is below `evaluation.min_ap`; all files are written.
        ArtifactError: `evaluation.baseline` can't be compared with.
    """
    source = model_file(run)
    place = place_of(run, source, run.builder.config.evaluation.target)
    predictor, spec = predictor_of(run, source, place)
    if source is not None and source.is_onnx and is_unfit_for_accuracy(source.path):
        run.reporter.note(f"{source.path.name} was calibrated on noise: its score says nothing about int8")
    split = run.builder.evaluation_split()
    dataset = open_for_scoring(run, split, spec)
    config = run.builder.config.evaluation
    baseline = None if config.baseline is None else read_baseline(config.baseline, dataset)  # before the work
    seen = Seen()
    report = score(run, predictor, spec, dataset, split, source, place, look=seen)
    if is_main():
        _keep(run, source, spec, predictor, dataset, split, with_draws(report, seen.matches), seen, baseline)
    value = report.metrics["AP"]
    if config.min_ap is not None and value is not None and value < config.min_ap:
        raise Rejected(
            f"AP is {value:.4f}; evaluation.min_ap is {config.min_ap:g}", f"{run.folder / PAGE} shows where it fails"
        )


def _keep(
    run: Run,
    source: ModelFile | None,
    spec: DetectorSpec,
    predictor: Predictor,
    dataset: DetectionDataset,
    split: str,
    report: EvaluationReport,
    seen: Seen,
    baseline: EvaluationReport | None,
) -> None:
    """Write the report, its page and its pictures."""
    _warn_of_preprocessing(run, source, spec)
    name = evaluation_name(source)
    others = _others(run, name, report, baseline)
    report.save(run.folder / "reports" / f"{name}.json")
    drawn = run.builder.config.postprocessing.plot_metrics
    picture = run.folder / "pictures" / f"{name}.jpg" if drawn else None
    if picture is not None:
        _picture(run, predictor, spec, dataset, picture)
    curves = run.folder / "pictures" / f"{name}_precision_recall.png" if drawn and has("matplotlib") else None
    if curves is not None:
        plot_precision_recall(report.curves, curves)
    shown = run.builder.shown_thresholds().confidence
    called = f"{spec.model_name}, {'float' if source is None else source.form}"
    write_page(run.folder / PAGE, called, report, seen, dataset, shown, others, drawn)
    run.record.tables += tuple(comparison_table(report, other) for other in others if other.report is baseline)
    run.record.add(Evaluated(source, report, split, picture, curves))


def _others(run: Run, name: str, report: EvaluationReport, baseline: EvaluationReport | None) -> list[Compared]:
    """The baseline, and what this run scored before of the other form, on the same images."""
    path = run.builder.config.evaluation.baseline
    found = [] if baseline is None else [compared(f"the baseline {path}", report, baseline)]
    for form in ("float", "int8"):
        earlier = run.folder / "reports" / f"evaluate_{form}.json"
        if earlier.stem != name and earlier.is_file():
            other = EvaluationReport.read(earlier)
            if other.dataset_sha256 == report.dataset_sha256:
                found.append(compared(form, report, other))
    return found


def _warn_of_preprocessing(run: Run, source: ModelFile | None, spec: DetectorSpec) -> None:
    """Beside the score, since it is the score that suffers: published weights were fed something else than they learned."""
    family = run.builder.config.family
    if family is None or source is None or source.is_onnx or saved_spec(source.path) is not None:
        return
    if unlike := unlike_published(family, spec.preprocess):
        run.reporter.note(f"warning: the score is that of published weights, and {unlike}")


def _picture(run: Run, predictor: Predictor, spec: DetectorSpec, dataset: DetectionDataset, path: Path) -> None:
    """The first images of the set with detections in colour and ground truth in white."""
    thresholds = dataclasses.replace(run.builder.thresholds(), confidence=SHOWN_FROM)  # whatever is scored
    sheet = []
    for index in range(min(PICTURES, len(dataset))):
        image = dataset.read_image(index)
        found = detect(predictor, image, spec.preprocess, thresholds)
        sheet.append(draw_detections(image, found, spec.class_names, dataset.annotation(index).boxes, SHEET_PX))
    save_image(path, with_legend(contact_sheet(sheet)))
