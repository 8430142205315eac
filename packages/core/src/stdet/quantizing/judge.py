"""Float and int8 before one judge: the evaluator that searches are given, and the verdict on a budget."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from stdet.artifacts import ModelFile
from stdet.build import Builder
from stdet.data.loader import EvalLoader
from stdet.errors import DataError
from stdet.evaluation.coco import chooser, detections, ground_truth_sha256, score
from stdet.evaluation.drop import NOTHING_TO_FIND, DropReport, Verdict, compare
from stdet.evaluation.predictors import OnnxPredictor
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.deploy import Evaluator
from stdet.interfaces.reporter import Reporter
from stdet.quantizing.images import combined, image_hashes
from stdet.structures import DetectorSpec, Table

SHOWN = 5
"""Classes in a table; the report has all."""


def evaluation_set(builder: Builder, spec: DetectorSpec) -> DetectionDataset | None:
    """The test images, else the validation images, or None when the config names neither."""
    split = builder.evaluation_split()
    if builder.config.reader is None or not builder.config.names_split(split):
        return None
    return builder.dataset(split, spec.class_names or None, spec=spec)


def make_evaluator(
    builder: Builder, spec: DetectorSpec, dataset: DetectionDataset, journal: Path | None, reporter: Reporter
) -> Evaluator:
    """Scores ONNX files on `dataset` in this process, by the config's thresholds.

    Raises:
        DataError: when it scores, and no image has an annotated object.
    """
    metric = builder.config.quantization.max_drop_metric
    decoder, choose = builder.decoder(spec), chooser(builder.thresholds())

    def judge(path: Path) -> float:
        predictor = OnnxPredictor(ModelFile.at(path), decoder)
        found = detections(
            lambda images: {"": predictor(images)},
            _loader(builder, spec, dataset),
            choose,
            lambda done, total: reporter.progress("evaluate", done, total),
        )
        value = score(dataset, found[""], scorer=builder.config.evaluation.scorer).metrics[metric]
        if value is None:
            raise DataError(NOTHING_TO_FIND, "give evaluation images with annotated objects")
        return value

    facts = [
        builder.thresholds().to_dict(),
        spec.to_dict(),
        ground_truth_sha256(dataset),
        combined(image_hashes(dataset)),
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Evaluator(judge, metric, digest, journal)


def compare_forms(
    builder: Builder,
    spec: DetectorSpec,
    floating: ModelFile,
    int8: ModelFile,
    dataset: DetectionDataset,
    reporter: Reporter,
) -> DropReport:
    """What `int8` loses against `floating` on `dataset`, and which part of the outputs loses it."""
    decoder = builder.decoder(spec)
    return compare(
        OnnxPredictor(floating, decoder),
        OnnxPredictor(int8, decoder),
        [(part, decoder.output_names[part.output]) for part in decoder.parts()],
        _loader(builder, spec, dataset),
        builder.thresholds(),
        metric=builder.config.quantization.max_drop_metric,
        scorer=builder.config.evaluation.scorer,
        progress=lambda done, total: reporter.progress("compare", done, total),
    )


def _loader(builder: Builder, spec: DetectorSpec, dataset: DetectionDataset) -> EvalLoader:
    config = builder.config
    return EvalLoader(dataset, spec.preprocess, config.training.batch_size, config.dataset.num_workers)


def worst_of(report: DropReport) -> dict[str, str]:
    """The part of the outputs and the class that lost most, in words."""
    part = max(report.parts, key=lambda p: p.alone.get(report.metric, 0.0))
    worst = {"part": f"{part.part} of {part.output} ({part.alone.get(report.metric, 0.0):+.2f} points alone)"}
    for name, row in list(report.per_class.items())[:1]:
        worst["class"] = f"{name} ({100 * row['float']:.1f} to {100 * row['int8']:.1f})"
    return worst


def drop_tables(verdict: Verdict) -> list[Table]:
    """The report for people."""
    report = verdict.report
    names = [name for name in ("AP", "AP50", "AP75") if name in report.points]
    rows = [
        ["float", *(f"{report.floating[n]:.4f}" for n in names)],
        ["int8", *(f"{report.quantized[n]:.4f}" for n in names)],
        ["points lost", *(f"{report.points[n]:+.2f}" for n in names)],
    ]
    if report.chance:
        rows.append(["another draw of images (95 %)", *(str(report.chance[n]) for n in names)])
        unsure = [n for n in names if report.chance[n].holds_zero]
        rows.append(["", *("no loss measurable" if n in unsure else "measured" for n in names)])
    for part in report.parts:
        rows.append([f"{part.part} alone int8", *(f"{part.alone[n]:+.2f}" for n in names)])
    for part in report.parts:
        rows.append([f"{part.part} back to float", *(f"{-part.recovers[n]:+.2f}" for n in names)])
    classes = [
        [name, f"{row['float']:.4f}", f"{row['int8']:.4f}", f"{row['points']:+.2f}"]
        for name, row in list(report.per_class.items())[:SHOWN]
    ]
    return [
        Table(f"what int8 costs on {report.images} images (points lost)", ["", *names], rows),
        Table(f"classes that lost most, {report.metric}", ["class", "float", "int8", "points lost"], classes),
        Table("where most is lost", ["what", "which"], [[what, which] for what, which in verdict.worst.items()]),
    ]
