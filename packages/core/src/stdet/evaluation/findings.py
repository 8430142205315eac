"""What lies behind a score: precision and recall of each class, confusions, kinds of errors, the worst images.

All of it at IoU 0.5 and of the detections that people are shown; average precision looks at weaker ones, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stdet.evaluation.chance import ClassMatches
from stdet.evaluation.matching import overlap
from stdet.evaluation.precision import precision_at_recalls
from stdet.interfaces.dataset import DetectionDataset
from stdet.structures import Annotation, Detections

IOU = 0.5
NEAR = 0.1
"""IoU from which a detection means an object of its class, though its box is too far off."""
ErrorKind = Literal["class", "duplicate", "localisation", "background", "missed"]
ERROR_KINDS: dict[ErrorKind, str] = {
    "class": "an object of another class lies there",
    "duplicate": "the object has a better detection already",
    "localisation": f"an object of the class is near, but IoU is below {IOU:g}",
    "background": "nothing of the class is there",
    "missed": "an object with none of these and no right detection",
}
"""What each kind of error means."""


@dataclass(frozen=True)
class ClassFindings:
    """One class; every number is 0..1, NaN where it has no value.

    Attributes:
        objects: how many there are to find.
        precision, recall, f1: of the detections from the threshold on.
        best_f1, best_threshold: the highest F1, and the least score that gives it.
        curve: float64 (101,), precision at recall 0, 0.01, …, 1; empty with no object.
    """

    objects: int
    precision: float
    recall: float
    f1: float
    best_f1: float
    best_threshold: float
    curve: np.ndarray


@dataclass(frozen=True)
class Findings:
    """What detections are, from a score on.

    Attributes:
        threshold: that score, 0..1.
        classes: in the order of the data set.
        confusion: int64 (K + 1, K + 1): rows are the classes of objects, columns those of detections; the last row is
            detections without an object, the last column objects without a detection.
        errors: how many of each kind.
        worst: indices of images with errors, most errors first, and how many.
    """

    threshold: float
    classes: list[ClassFindings]
    confusion: np.ndarray
    errors: dict[ErrorKind, int]
    worst: list[tuple[int, int]]


def find(
    dataset: DetectionDataset, found: Mapping[int, Detections], matches: Sequence[ClassMatches], threshold: float
) -> Findings:
    """Args:
    found: detections in image pixels, by image index.
    matches: what COCO's rules say of them, by class; the first IoU threshold is 0.5.
    threshold: least score of what is counted, 0..1.
    """
    classes = len(dataset.class_names)
    confusion = np.zeros((classes + 1, classes + 1), np.int64)
    errors: Counter[ErrorKind] = Counter(dict.fromkeys(ERROR_KINDS, 0))
    wrong = {}
    for index in sorted(found):
        shown = above(found[index], threshold)
        pairs, kinds = _image(dataset.annotation(index), shown, classes, dataset.ignored == "difficult")
        np.add.at(confusion, tuple(pairs.T), 1)
        errors.update(kinds)
        wrong[index] = int((pairs[:, 0] != pairs[:, 1]).sum())
    worst = sorted(((index, count) for index, count in wrong.items() if count), key=lambda one: (-one[1], one[0]))
    return Findings(threshold, [_class(one, threshold) for one in matches], confusion, dict(errors), worst)


def above(found: Detections, threshold: float) -> Detections:
    """Those with at least this score, 0..1."""
    sure = found.scores >= threshold
    return Detections(found.boxes[sure], found.scores[sure], found.labels[sure])


def _class(one: ClassMatches, threshold: float) -> ClassFindings:
    objects = int(one.objects.sum())
    true, false = np.cumsum(one.true[0]), np.cumsum(one.false[0])
    count = int((one.score >= threshold).sum())  # best first
    right, wrong = (int(true[count - 1]), int(false[count - 1])) if count else (0, 0)
    precision = right / (right + wrong) if right + wrong else np.nan
    recall = right / objects if objects else np.nan
    f1 = 2 * right / (right + wrong + objects) if objects else np.nan
    best_f1 = best_threshold = np.nan
    curve = np.zeros(0)
    if objects:
        curve = precision_at_recalls(one.true[:1], one.false[:1], objects)[0]
        ends = np.flatnonzero(np.diff(one.score, append=-1.0))  # of equal scores all count
        each = 2 * true[ends] / (true[ends] + false[ends] + objects)
        if each.any():
            best_f1, best_threshold = float(each.max()), float(one.score[ends[each.argmax()]])
    return ClassFindings(objects, precision, recall, f1, best_f1, best_threshold, curve)


def _image(truth: Annotation, found: Detections, classes: int, difficult: bool) -> tuple[np.ndarray, list[ErrorKind]]:
    """(P, 2) class of an object and of its detection, `classes` for none, and the kind of each error of an image."""
    iou = _overlaps(found.boxes, truth.boxes, truth.ignore & (not difficult))
    same = found.labels[:, None] == truth.labels
    free = ~truth.ignore
    pairs: list[tuple[int, int]] = []
    kinds: list[ErrorKind] = []
    right = _take(range(len(found)), np.where(same, iou, 0.0), free)
    left = [d for d in range(len(found)) if d not in right and not (same & truth.ignore & (iou >= IOU))[d].any()]
    confused = _take(left, np.where(same, 0.0, iou), free)
    for d, n in (right | confused).items():
        pairs.append((int(truth.labels[n]), int(found.labels[d])))
    kinds += ["class"] * len(confused)
    meant = set()
    for d in left:
        if d in confused:
            continue
        pairs.append((classes, int(found.labels[d])))
        own = np.where(same[d] & ~truth.ignore, iou[d], 0.0)
        best = own.max(initial=0.0)
        kinds.append("duplicate" if best >= IOU else "localisation" if best >= NEAR else "background")
        if NEAR <= best < IOU:
            meant.add(int(own.argmax()))
    lost = np.flatnonzero(free)
    pairs += [(int(truth.labels[n]), classes) for n in lost]
    kinds += ["missed"] * len(set(lost.tolist()) - meant)
    return np.array(pairs, np.int64).reshape(-1, 2), kinds


def _take(detections: Sequence[int], iou: np.ndarray, free: np.ndarray) -> dict[int, int]:
    """The object of each of the detections that gets one, the first detection first; `free` (N,) loses what is taken."""
    taken = {}
    for d in detections:
        open_ones = np.where(free, iou[d], 0.0)
        if open_ones.max(initial=0.0) >= IOU:
            n = int(open_ones.argmax())
            taken[d], free[n] = n, False
    return taken


def _overlaps(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """float64 (D, N): IoU of xyxy boxes; the share of the detection that lies inside where an object is a crowd."""
    one, other = (np.hstack((b[:, :2], b[:, 2:] - b[:, :2])).astype(np.float64) for b in (found, truth))
    d, n = (part.ravel() for part in np.indices((len(one), len(other))))
    return overlap(one[d], other[n], crowd[n]).reshape(len(one), len(other))
