"""Average precision by COCO's rules, computed by pycocotools from arrays."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stdet.artifacts import write_json
from stdet.data.loader import EvalLoader
from stdet.data.preprocess import normalize
from stdet.errors import ArtifactError, DataError
from stdet.evaluation.postprocess import select
from stdet.evaluation.predictors import Predictor
from stdet.interfaces.dataset import DetectionDataset
from stdet.structures import Detections, Preprocess

FORMAT = "stdet.evaluation/1"

METRICS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""COCO's twelve numbers, in pycocotools' order."""


@dataclass(frozen=True)
class EvaluationReport:
    """What a model scores on a data set.

    Attributes:
        metrics: COCO's twelve numbers, and `AP@<t>` for another IoU threshold; 0..1, None where there is nothing to
            find (no object of that size).
        per_class: class name to its `AP` and `AP50`.
        images, ground_truths, detections: how many; ignored boxes aren't counted.
        thresholds: confidence, NMS, and the limit of detections an image.
        dataset_sha256: of the ground truth.
        seconds: wall time of prediction and scoring.
        model: name and hash of the model file, when there is one.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    images: int
    ground_truths: int
    detections: int
    thresholds: dict[str, float | int | None]
    dataset_sha256: str
    seconds: float
    model: dict[str, str] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """The metrics that have a value."""
        return {name: value for name, value in self.metrics.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}

    def save(self, path: Path) -> None:
        """Write the report as JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises:
        ArtifactError: missing, not JSON, or of another format.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot read the evaluation report {path}: {error}") from error
        if document.pop("format", None) != FORMAT:
            raise ArtifactError(f"{path} is not an evaluation report of format {FORMAT}")
        return cls(**document)


def evaluate(
    predictor: Predictor,
    dataset: DetectionDataset,
    preprocess: Preprocess,
    *,
    confidence_thresh: float = 0.001,
    nms_thresh: float = 0.65,
    iou_eval_thresh: float = 0.5,
    max_detections: int | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
    model: Mapping[str, str] | None = None,
) -> EvaluationReport:
    """Run `predictor` over every image of `dataset`, images without boxes included, and score it.

    Args:
        iou_eval_thresh: IoU for one more average precision, reported as `AP@<t>` when COCO's numbers lack it.
        max_detections: at most so many an image before scoring; COCO itself counts 100 a class and image.

    Raises:
        DataError: there is nothing to evaluate on, or an image can't be read.
    """
    if not len(dataset):
        raise DataError("the evaluation set holds no image", "check the test and val paths of the dataset section")
    started = time.perf_counter()
    found: dict[int, Detections] = {}
    loader = EvalLoader(dataset, preprocess, batch_size, num_workers)
    for batch in loader:
        selected = select(predictor(normalize(batch.images, preprocess)), confidence_thresh, nms_thresh, max_detections)
        for index, geometry, one in zip(batch.indices, batch.geometries, selected, strict=True):
            found[index] = Detections(geometry.to_image(one.boxes), one.scores, one.labels)
        if progress:
            progress(len(found), len(dataset))
    metrics, per_class, digest, truths = score(dataset, found, iou_eval_thresh)
    return EvaluationReport(
        metrics,
        per_class,
        len(dataset),
        truths,
        sum(len(d) for d in found.values()),
        {"confidence": confidence_thresh, "nms": nms_thresh, "max_detections": max_detections},
        digest,
        time.perf_counter() - started,
        dict(model or {}),
    )


def score(
    dataset: DetectionDataset, found: Mapping[int, Detections], iou_eval_thresh: float = 0.5
) -> tuple[dict[str, float | None], dict[str, dict[str, float | None]], str, int]:
    """Average precisions of detections (in image pixels, by image index).

    Returns:
        The metrics, the same by class, the SHA-256 of the ground truth, and the number of its boxes.
    """
    truth, digest, count = _ground_truth(dataset)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints; stdout belongs to `--json`
        results = truth.loadRes(_rows(found)) if any(len(d) for d in found.values()) else None
        if results is None:
            empty: dict[str, float | None] = dict.fromkeys(METRICS, 0.0 if count else None)
            return empty, {n: dict.fromkeys(("AP", "AP50"), None) for n in dataset.class_names}, digest, count
        judge = COCOeval(truth, results, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        metrics: dict[str, float | None] = {
            name: _known(value) for name, value in zip(METRICS, judge.stats, strict=True)
        }
        per_class = {
            name: {
                "AP": _mean(judge.eval["precision"][:, :, k, 0, -1]),
                "AP50": _mean(judge.eval["precision"][0, :, k, 0, -1]),
            }
            for k, name in enumerate(dataset.class_names)
        }
        if not np.isclose(iou_eval_thresh, 0.5):
            judge.params.iouThrs = np.array([iou_eval_thresh])
            judge.evaluate()
            judge.accumulate()
            metrics[f"AP@{iou_eval_thresh:g}"] = _mean(judge.eval["precision"][0, :, :, 0, -1])
    return metrics, per_class, digest, count


def _ground_truth(dataset: DetectionDataset) -> tuple[COCO, str, int]:
    """The data set as pycocotools wants it; ignored boxes become crowd regions. Also its hash and number of boxes."""
    digest = hashlib.sha256("\0".join(dataset.class_names).encode())
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    count = 0
    for index in range(len(dataset)):
        a = dataset.annotation(index)
        images.append({"id": index + 1, "width": a.width, "height": a.height})
        for part in (np.int64(a.image_id), a.boxes, a.labels, a.ignore):
            digest.update(np.ascontiguousarray(part).tobytes())
        count += int((~a.ignore).sum())
        for box, label, ignore, area in zip(
            a.boxes.tolist(), a.labels.tolist(), a.ignore, a.areas.tolist(), strict=True
        ):
            x1, y1, x2, y2 = box
            annotations.append(
                {
                    "id": len(annotations) + 1,  # pycocotools takes id 0 for "not matched"
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": int(ignore),
                }
            )
    truth = COCO()
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(dataset.class_names)]
    truth.dataset = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth, digest.hexdigest(), count


def _rows(found: Mapping[int, Detections]) -> np.ndarray:
    """float64 (N, 7): image id, x, y, w, h, score, category id."""
    parts = []
    for index, d in found.items():
        boxes = d.boxes.astype(np.float64)
        ids = np.full((len(d), 1), index + 1.0)
        sizes = boxes[:, 2:] - boxes[:, :2]
        parts.append(np.hstack([ids, boxes[:, :2], sizes, d.scores[:, None], d.labels[:, None] + 1.0]))
    return np.concatenate(parts)


def _known(value: float) -> float | None:
    """pycocotools says -1 where there is nothing to measure."""
    return None if value < 0 else float(value)


def _mean(precision: np.ndarray) -> float | None:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None
