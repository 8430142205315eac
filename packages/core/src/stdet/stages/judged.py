"""What an evaluation says beside its numbers: how far chance goes, what differs from other reports, the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from stdet.artifacts import write_text
from stdet.errors import ArtifactError
from stdet.evaluation.chance import ClassMatches, Interval, drawn, interval
from stdet.evaluation.coco import EvaluationReport, ground_truth_sha256
from stdet.evaluation.findings import Findings, above, find
from stdet.evaluation.plots import draw_boxes
from stdet.interfaces.dataset import DetectionDataset
from stdet.reports.evaluation_page import Compared, Picture, evaluation_page
from stdet.structures import Detections

WORST = 12
"""Images that are shown."""
SIDE_PX = 320
"""Longer side of an image there."""
QUALITY = 75


class Seen:
    """Keeps what `coco.evaluate` shows of the detections."""

    def __init__(self) -> None:
        self.found: Mapping[int, Detections] = {}
        self.matches: list[ClassMatches] = []

    def __call__(self, found: Mapping[int, Detections], matches: list[ClassMatches]) -> None:
        self.found, self.matches = found, matches


def read_baseline(path: Path, dataset: DetectionDataset) -> EvaluationReport:
    """The report to compare with.

    Raises:
        ArtifactError: no report, of other images, or without the draws that tell chance from difference.
    """
    report = EvaluationReport.read(path)
    if report.dataset_sha256 != ground_truth_sha256(dataset):
        raise ArtifactError(
            f"evaluation.baseline {path} is of other images or objects than this evaluation",
            "evaluate its model on the same set, and give that report",
        )
    if not report.draws:
        raise ArtifactError(
            f"evaluation.baseline {path} doesn't say how far chance goes: it is of an older version, or of one image",
            "evaluate its model again with `stdet evaluate`, and give the report in the reports folder of that run",
        )
    return report


def with_draws(report: EvaluationReport, matches: Sequence[ClassMatches]) -> EvaluationReport:
    """The report with its `draws`."""
    known = drawn(matches, report.images)
    return dataclasses.replace(
        report, draws={name: [round(v, 5) if np.isfinite(v) else None for v in draws] for name, draws in known.items()}
    )


def compared(name: str, report: EvaluationReport, other: EvaluationReport) -> Compared:
    """`report` against another one of the same images."""
    both = {metric: _draws(report, metric) - _draws(other, metric) for metric in report.draws if metric in other.draws}
    return Compared(name, other, _intervals(both))


def _draws(report: EvaluationReport, metric: str) -> np.ndarray:
    return np.array(report.draws[metric], np.float64)  # None becomes NaN


def _intervals(draws: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    known = {metric: interval(100 * values) for metric, values in draws.items()}
    return {metric: reach for metric, reach in known.items() if reach is not None}


def write_page(
    path: Path,
    name: str,
    report: EvaluationReport,
    seen: Seen,
    dataset: DetectionDataset,
    threshold: float,
    others: Sequence[Compared],
    pictures: bool,
) -> None:
    """Write the page of an evaluation.

    Args:
        threshold: least score of what counts as shown, 0..1.
        others: what it is compared with.
        pictures: whether the worst images are shown.
    """
    found = find(dataset, seen.found, seen.matches, threshold)
    chance = _intervals({metric: _draws(report, metric) for metric in report.draws})
    shown = _worst(dataset, seen.found, found) if pictures else []
    write_text(path, evaluation_page(name, report, found, chance, others, shown))


def _worst(dataset: DetectionDataset, detections: Mapping[int, Detections], found: Findings) -> list[Picture]:
    pictures = []
    for index, errors in found.worst[:WORST]:
        truth, one = dataset.annotation(index), above(detections[index], found.threshold)
        image = dataset.read_image(index)[..., :3]
        factor = SIDE_PX / max(image.shape[:2])
        size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
        small = np.ascontiguousarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        names = dataset.class_names
        sure = [f"{names[int(k)]} {s:.2f}" for k, s in zip(one.labels, one.scores, strict=True)]
        left = draw_boxes(small, truth.boxes * factor, truth.labels, [names[int(k)] for k in truth.labels])
        right = draw_boxes(small, one.boxes * factor, one.labels, sure)
        done, jpeg = cv2.imencode(
            ".jpg", cv2.cvtColor(np.hstack((left, right)), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        )
        assert done
        called = truth.path.name if truth.path is not None else f"image {truth.image_id}"
        pictures.append(Picture(f"{called}: {errors} {'error' if errors == 1 else 'errors'}", jpeg.tobytes()))
    return pictures
