"""Average precision by COCO's rules, computed by pycocotools from arrays."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from stdet.artifacts import write_json
from stdet.data.loader import EvalLoader
from stdet.data.preprocess import normalize
from stdet.data.workers import never
from stdet.errors import ArtifactError, DataError, ModelError
from stdet.evaluation.chance import ClassMatches, class_matches
from stdet.evaluation.postprocess import select
from stdet.evaluation.predictors import Predictor
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Candidates
from stdet.nn.distributed import from_main, gathered, rank, world_size
from stdet.structures import Detections, Preprocess, Thresholds

FORMAT, OLD_FORMAT = "stdet.evaluation/2", "stdet.evaluation/1"
"""The old one spells `thresholds` otherwise."""

METRICS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""COCO's twelve numbers, in pycocotools' order."""


MAX_PER_CLASS = 100
"""Detections of an image and class that COCO's rules look at."""


@dataclass(frozen=True)
class EvaluationReport:
    """What a model scores on a data set.

    Attributes:
        metrics: COCO's twelve numbers, and `AP@<t>` for another IoU threshold; 0..1, None where there is nothing to
            find (no object of that size).
        per_class: class name to its `AP` and `AP50`.
        images, ground_truths, detections: how many; ignored boxes aren't counted, nor are detections beyond the 100 best
            of an image and class, which COCO doesn't look at.
        thresholds: which candidates counted as detections.
        dataset_sha256: of the ground truth.
        seconds: wall time of prediction and scoring.
        model: `file` and `sha256` of the model file, when there is one, and `place` where it ran, if not on the host.
        curves: precision at recall 0, 0.01, …, 1 by `AP50` and `AP75`, the mean over the classes, whose mean in turn is
            the metric of that name; for `plot_precision_recall`.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    images: int
    ground_truths: int
    detections: int
    thresholds: Thresholds
    dataset_sha256: str
    seconds: float
    model: dict[str, str] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)

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
        if not isinstance(document, dict) or document.pop("format", None) not in (FORMAT, OLD_FORMAT):
            raise ArtifactError(f"{path} is not an evaluation report of format {FORMAT}")
        try:
            return cls(**document | {"thresholds": Thresholds.from_dict(document["thresholds"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"the evaluation report {path} is damaged: {error}") from error


def evaluate(
    predictor: Predictor,
    dataset: DetectionDataset,
    preprocess: Preprocess,
    thresholds: Thresholds,
    *,
    iou_eval_thresh: float = 0.5,
    batch_size: int = 8,
    num_workers: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
    model: Mapping[str, str] | None = None,
    stop: Callable[[], bool] = never,
) -> EvaluationReport:
    """Run `predictor` over every image of `dataset`, images without boxes included, and score it.

    Several processes share the images, each image goes to one of them, and all return the same report.

    Args:
        thresholds: which candidates are scored; of a class the best 100 are at most, since COCO counts no more.
        iou_eval_thresh: IoU for one more average precision, reported as `AP@<t>` when COCO's numbers lack it.
        stop: whether to go no further.

    Raises:
        Interrupted: `stop` says so.
        DataError: there is nothing to evaluate on, see `check_scorable`, or an image can't be read.
        ModelError: the model scores another number of classes than `dataset` has.
    """
    check_scorable(dataset)
    started = time.perf_counter()
    mine = list(range(rank(), len(dataset), world_size()))
    loader = EvalLoader(dataset, preprocess, batch_size, num_workers, mine, stop)
    choose = chooser(thresholds)
    found = gathered(detections(lambda images: {"": predictor(images)}, loader, choose, progress)[""])
    scored = from_main(lambda: score(dataset, found, iou_eval_thresh))
    return EvaluationReport(
        scored.metrics,
        scored.per_class,
        len(dataset),
        scored.ground_truths,
        sum(len(d) for d in found.values()),
        thresholds,
        scored.dataset_sha256,
        time.perf_counter() - started,
        dict(model or {}),
        scored.curves,
    )


def check_scorable(dataset: DetectionDataset, split: str = "evaluation") -> None:
    """Check that there is an object to find: without one no metric has a value.

    Args:
        split: what to call the set.

    Raises:
        DataError: no image, or no object that counts.
    """
    if not len(dataset):
        raise DataError(f"the {split} set holds no image", "check the test and val paths of the dataset section")
    ignored = 0
    for index in range(len(dataset)):
        ignore = dataset.annotation(index).ignore
        if not ignore.all():
            return
        ignored += len(ignore)
    marked = f", {ignored} that are marked {dataset.ignored}" if ignored else ""
    left_out = "".join(f"; {note}" for note in dataset.notes)
    raise DataError(
        f"the {split} set has nothing to score: {len(dataset)} images without an object that counts{marked}{left_out}",
        "give a set with annotated objects of the model's classes: without one no epoch is the best, and no model better",
    )


Chooser = Callable[[Candidates], list[Detections]]


def chooser(thresholds: Thresholds) -> Chooser:
    """`select` as an evaluation does it."""
    return partial(select, thresholds=thresholds, max_per_class=MAX_PER_CLASS)


def detections(
    predict: Callable[[Tensor], Mapping[str, Candidates]],
    loader: EvalLoader,
    choose: Chooser,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, dict[int, Detections]]:
    """Detections in image pixels by image index, for each of the variants that `predict` makes of a batch.

    Args:
        predict: takes normalized images, float32 (B, C, H, W).

    Raises:
        ModelError: the model scores another number of classes than the data set has.
    """
    found: dict[str, dict[int, Detections]] = defaultdict(dict)
    dataset, done = loader.dataset, 0
    for batch in loader:
        for variant, candidates in predict(normalize(batch.images, loader.preprocess)).items():
            classes = candidates.scores.shape[-1]
            if classes != len(dataset.class_names):
                raise ModelError(
                    f"the model scores {classes} classes, the data set has {len(dataset.class_names)}",
                    "give dataset.class_names all classes of the model, in its order",
                )
            for index, geometry, one in zip(batch.indices, batch.geometries, choose(candidates), strict=True):
                found[variant][index] = Detections(geometry.to_image(one.boxes), one.scores, one.labels)
        done += len(batch.indices)
        if progress:
            progress(done, len(loader.indices))
    return found


class Score(NamedTuple):
    """The parts of an `EvaluationReport` that follow from boxes alone; its attributes say what they are."""

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    dataset_sha256: str
    ground_truths: int
    curves: dict[str, list[float]]


def score(dataset: DetectionDataset, found: Mapping[int, Detections], iou_eval_thresh: float = 0.5) -> Score:
    """Average precisions of detections (in image pixels, by image index)."""
    truth, digest, count = _ground_truth(dataset)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints; stdout belongs to `--json`
        judge = _Judge(truth, _results(truth, found), dataset.ignored == "difficult")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        metrics = {name: _known(value) for name, value in zip(METRICS, judge.stats, strict=True)}
        precision = judge.eval["precision"][..., 0, -1]  # (IoU, recall, class), all sizes, 100 detections
        if not np.isclose(iou_eval_thresh, 0.5):
            judge.params.iouThrs = np.array([iou_eval_thresh])
            judge.evaluate()
            judge.accumulate()
            metrics[f"AP@{iou_eval_thresh:g}"] = _mean(judge.eval["precision"][0, :, :, 0, -1])
    per_class = {
        name: {"AP": _mean(precision[:, :, k]), "AP50": _mean(precision[0, :, k])}
        for k, name in enumerate(dataset.class_names)
    }
    known = precision[:, :, precision[0, 0] > -1]
    curves = {name: known[i].mean(-1).tolist() for name, i in (("AP50", 0), ("AP75", 5))} if known.size else {}
    return Score(metrics, per_class, digest, count, curves)


def matches(dataset: DetectionDataset, found: Mapping[int, Detections]) -> list[ClassMatches]:
    """What COCO's rules say of each detection, by class; see `stdet.evaluation.chance`."""
    truth, _, _ = _ground_truth(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        judge = _Judge(truth, _results(truth, found), dataset.ignored == "difficult")
        judge.evaluate()
    return class_matches(judge)


class _Judge(COCOeval):
    """COCO's rules, and VOC's for difficult objects: matched by IoU, by any number of detections."""

    def __init__(self, truth: COCO, results: COCO, difficult: bool) -> None:
        super().__init__(truth, results, "bbox")
        self._difficult = difficult

    def computeIoU(self, image: int, category: int) -> Any:  # noqa: N802 - pycocotools' name
        ignored = [g for g in self._gts[image, category] if g["iscrowd"]]
        for g in ignored:
            g["iscrowd"] = int(not self._difficult)
        overlaps = super().computeIoU(image, category)
        for g in ignored:
            g["iscrowd"] = 1
        return overlaps


def ground_truth_sha256(dataset: DetectionDataset) -> str:
    """The hash that reports call `dataset_sha256`."""
    return _ground_truth(dataset)[1]


def _ground_truth(dataset: DetectionDataset) -> tuple[COCO, str, int]:
    """The data set as pycocotools wants it; ignored boxes become crowds, see `_Judge`. Also its hash and number of boxes."""
    digest = hashlib.sha256("\0".join((dataset.ignored, *dataset.class_names)).encode())
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    count = 0
    for index in range(len(dataset)):
        a = dataset.annotation(index)
        images.append({"id": index + 1, "width": a.width, "height": a.height})
        for part in (np.array([a.image_id, a.height, a.width], np.int64), a.boxes, a.labels, a.ignore, a.areas):
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
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(dataset.class_names)]
    truth = _coco({"info": {}, "images": images, "annotations": annotations, "categories": categories})
    return truth, digest.hexdigest(), count


def _results(truth: COCO, found: Mapping[int, Detections]) -> COCO:
    """Detections as pycocotools wants them. Its own `loadRes` fails when there is none."""
    annotations: list[dict[str, Any]] = []
    for index, d in found.items():
        for (x1, y1, x2, y2), one, label in zip(d.boxes.tolist(), d.scores.tolist(), d.labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": label + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": one,
                }
            )
    return _coco({**truth.dataset, "annotations": annotations})


def _coco(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _known(value: float) -> float | None:
    """pycocotools says -1 where there is nothing to measure."""
    return None if value < 0 else float(value)


def _mean(precision: np.ndarray) -> float | None:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None
