"""`stdet.evaluation.precision.judge` by pycocotools itself: slower by far, for whoever wants its very numbers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stdet.evaluation.chance import ClassMatches
from stdet.evaluation.precision import Judgement
from stdet.interfaces.dataset import DetectionDataset
from stdet.structures import Detections


def judge(dataset: DetectionDataset, found: Mapping[int, Detections], thresholds: np.ndarray) -> Judgement:
    """As `precision.judge`."""
    truth = _ground_truth(dataset)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints; stdout belongs to `--json`
        judge = _Judge(truth, _results(truth, found), dataset.ignored == "difficult")
        judge.params.iouThrs = thresholds
        judge.evaluate()
        judge.accumulate()
    precision, recall = (np.where(judge.eval[k] < 0, np.nan, judge.eval[k]) for k in ("precision", "recall"))
    best = precision[..., -1]  # 100 detections
    return Judgement(best.mean(1), best[..., 0], recall, _class_matches(judge))


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


def _ground_truth(dataset: DetectionDataset) -> COCO:
    """The data set as pycocotools wants it; ignored boxes become crowds, see `_Judge`."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        a = dataset.annotation(index)
        images.append({"id": index + 1, "width": a.width, "height": a.height})
        rows = zip(a.boxes.tolist(), a.labels.tolist(), a.ignore, a.areas.tolist(), strict=True)
        for (x1, y1, x2, y2), label, ignore, area in rows:
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
    return _coco({"info": {}, "images": images, "annotations": annotations, "categories": categories})


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


def _class_matches(judge: COCOeval) -> list[ClassMatches]:
    """The matches of each class, from a `COCOeval` that has evaluated."""
    images, areas = len(judge.params.imgIds), len(judge.params.areaRng)
    thresholds, limit = len(judge.params.iouThrs), judge.params.maxDets[-1]
    found = []
    for k in range(len(judge.params.catIds)):
        rows: list[dict[str, Any] | None] = judge.evalImgs[k * areas * images : k * areas * images + images]
        kept = [(i, row) for i, row in enumerate(rows) if row is not None]
        objects = np.zeros(images, np.int64)
        for i, row in kept:
            objects[i] = int(np.count_nonzero(np.asarray(row["gtIgnore"]) == 0))
        score = np.concatenate([row["dtScores"][:limit] for _, row in kept]) if kept else np.zeros(0)
        order = np.argsort(-score, kind="stable")
        blank = np.zeros((thresholds, 0), bool)
        matched, ignored = (
            np.concatenate([blank, *(np.asarray(row[key], bool)[:, :limit] for _, row in kept)], 1)[:, order]
            for key in ("dtMatches", "dtIgnore")
        )
        image = np.concatenate([np.full(len(row["dtScores"][:limit]), i) for i, row in kept]) if kept else np.zeros(0)
        image = image.astype(np.int64)[order]
        found.append(ClassMatches(image, matched & ~ignored, ~matched & ~ignored, objects, score[order]))
    return found
