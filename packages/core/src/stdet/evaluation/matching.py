"""Which detections are right by COCO's rules: all IoU thresholds and sizes of a class at once, as arrays.

The overlaps are those of pycocotools to the last bit: the same operations in the same order, on the same float64 values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Self

import numpy as np

from stdet.interfaces.dataset import DetectionDataset
from stdet.structures import Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = np.array([(0, 1e5**2), (0, 32**2), (32**2, 96**2), (96**2, 1e5**2)])
"""All, small, medium and large objects: pixels^2, both ends inclusive."""
MAX_PER_CLASS = 100
"""Detections of an image and class that COCO's rules look at."""
_BLOCK = 1 << 18  # pairs of a detection and an object whose overlap is computed at once


@dataclass(frozen=True)
class Boxes:
    """Attributes:
    label, image: int64 (N,), index of the class and of the image.
    box: float64 (N, 4): x, y, width, height, pixels of the image.
    area: float64 (N,), pixels^2, what the size is judged by.
    """

    label: np.ndarray
    image: np.ndarray
    box: np.ndarray
    area: np.ndarray

    def rows(self, chosen: np.ndarray | slice) -> Self:
        """Some of them, or all in another order."""
        return type(self)(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def by_class(self, classes: int) -> Iterator[Self]:
        """Those of each class, when they lie in the order of their labels."""
        ends = np.searchsorted(self.label, np.arange(classes + 1))
        return (self.rows(slice(start, end)) for start, end in pairwise(ends))


@dataclass(frozen=True)
class Objects(Boxes):
    """What there is to find, by class and image.

    Attributes:
        ignore: bool (N,): any number of detections may match it, and they don't count.
    """

    ignore: np.ndarray

    @classmethod
    def of(cls, dataset: DetectionDataset) -> Self:
        """Every object of a data set."""
        rows = [dataset.annotation(index) for index in range(len(dataset))]
        label = _joined([a.labels for a in rows], np.int64)
        box, image = _joined_boxes({index: a.boxes for index, a in enumerate(rows)})
        area, ignore = _joined([a.areas for a in rows], np.float64), _joined([a.ignore for a in rows], np.bool_)
        return cls(label, image, box, area, ignore).rows(np.lexsort((image, label)))


@dataclass(frozen=True)
class Found(Boxes):
    """What was found, by class and image, best first, at most `MAX_PER_CLASS` of an image and class.

    Attributes:
        score: float64 (N,).
        rank: int64 (N,): how many of its image and class are before it.
    """

    score: np.ndarray
    rank: np.ndarray

    @classmethod
    def of(cls, found: Mapping[int, Detections]) -> Self:
        """Args:
        found: by image index.
        """
        label = _joined([d.labels for d in found.values()], np.int64)
        score = _joined([d.scores for d in found.values()], np.float64)
        box, image = _joined_boxes({index: d.boxes for index, d in found.items()})
        order = np.lexsort((-score, image, label))
        rank = _places(label[order], image[order])
        order, rank = order[rank < MAX_PER_CLASS], rank[rank < MAX_PER_CLASS]
        box = box[order]
        return cls(label[order], image[order], box, box[:, 2] * box[:, 3], score[order], rank)


def _joined(parts: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype)


def _joined_boxes(parts: Mapping[int, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """xyxy to x, y, width, height, and the image of each."""
    corners = np.concatenate([np.zeros((0, 4)), *parts.values()])
    image = np.repeat(np.array(list(parts), np.int64), [len(boxes) for boxes in parts.values()])
    return np.hstack((corners[:, :2], corners[:, 2:] - corners[:, :2])), image


def _places(*keys: np.ndarray) -> np.ndarray:
    """int64 (N,): how many of the equal keys that lie together are before each."""
    count = np.arange(len(keys[0]))
    starts = np.ones(len(count), bool)
    starts[1:] = np.any([key[1:] != key[:-1] for key in keys], 0)
    return count - np.maximum.accumulate(np.where(starts, count, 0))


@dataclass(frozen=True)
class Matched:
    """What the detections of a class are, by size (A) and IoU threshold (T).

    Attributes:
        right, wrong: bool (A, T, D); neither where a detection doesn't count.
        objects: bool (A, N), which objects count.
    """

    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


def match(objects: Objects, found: Found, thresholds: np.ndarray, difficult: bool) -> Matched:
    """Give each detection the object that it overlaps most, the best detection of an image first.

    Args:
        objects, found: of one class.
        thresholds: float64 (T,), least IoU of a match, 0..1.
        difficult: ignored objects are matched by IoU, as in VOC, rather than by the share that lies inside, as in COCO.
    """
    low, high = AREAS[:, :1], AREAS[:, 1:]
    ignored = objects.ignore | (objects.area < low) | (objects.area > high)  # (A, N)
    outside = (found.area < low) | (found.area > high)  # (A, D)
    shape = (len(AREAS), len(thresholds))
    matched, uncounted = np.zeros((2, *shape, len(found.label)), bool)
    taken = np.zeros((*shape, len(objects.label)), bool)
    least = np.minimum(thresholds, 1 - 1e-10)
    for detection, starts, target, iou in _rounds(objects, found, least.min(), difficult):
        place = np.arange(len(target), dtype=np.int32)
        free = (iou >= least[:, None]) & ~taken[..., target]
        worth = np.where(free, place + len(place) * ~ignored[:, None, target], -1)  # one that counts before all others
        best = np.maximum.reduceat(worth, starts, -1)
        chosen = target[best % len(place)]
        matched[..., detection] = best >= 0
        uncounted[..., detection] = (best >= 0) & (best < len(place))
        a, t, d = np.nonzero((best >= 0) & ~objects.ignore[chosen])
        taken[a, t, chosen[a, t, d]] = True
    return Matched(matched & ~uncounted, ~matched & ~outside[:, None], ~ignored)


Round = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _rounds(objects: Objects, found: Found, least: float, difficult: bool) -> Iterator[Round]:
    """At most one detection of each image a round, the best ones in the first.

    Yields:
        The detections; where the objects of each begin; the objects that it overlaps by `least`, by IoU and then by their
        order, ascending; those IoU.
    """
    detection, target, iou = _overlaps(objects, found, least, difficult)
    order = np.lexsort((target, iou, detection))
    detection, target, iou = detection[order], target[order], iou[order]
    starts = np.flatnonzero(_places(detection) == 0)
    turn = np.repeat(_places(found.image[detection[starts]]), np.diff(starts, append=len(detection)))
    order = np.argsort(turn, kind="stable")
    detection, target, iou, turn = detection[order], target[order], iou[order], turn[order]
    ends = np.searchsorted(turn, np.arange(turn.max(initial=-1) + 2))
    for start, end in pairwise(ends):
        first = np.flatnonzero(_places(detection[start:end]) == 0)
        yield detection[start:end][first], first, target[start:end], iou[start:end]


def _overlaps(
    objects: Objects, found: Found, least: float, difficult: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detection, object of its image, and IoU, wherever it is `least` or more; in blocks, so that memory is bounded."""
    start, end = (np.searchsorted(objects.image, found.image, side) for side in ("left", "right"))
    total = np.cumsum(end - start)
    cuts = [0, *np.searchsorted(total, np.arange(_BLOCK, total[-1], _BLOCK)), len(total)] if len(total) else [0, 0]
    crowd = objects.ignore & (not difficult)
    kept = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for a, b in pairwise(cuts):
        detection = np.repeat(np.arange(a, b), (end - start)[a:b])
        target = start[detection] + _places(detection)
        iou = overlap(found.box[detection], objects.box[target], crowd[target])
        near = iou >= least
        kept.append((detection[near], target[near], iou[near]))
    detection, target, iou = (np.concatenate(part) for part in zip(*kept, strict=True))
    return detection, target, iou


def overlap(one: np.ndarray, other: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU (N,) of pairs of boxes, float64 (N, 4), x, y, width, height.

    Args:
        crowd: bool (N,): where `other` is one, the share of `one` that lies inside counts instead.
    """
    sides = np.minimum(one[:, :2] + one[:, 2:], other[:, :2] + other[:, 2:]) - np.maximum(one[:, :2], other[:, :2])
    both = np.where((sides > 0).all(1), sides[:, 0] * sides[:, 1], 0.0)
    area = one[:, 2] * one[:, 3]
    union = np.where(crowd, area, area + other[:, 2] * other[:, 3] - both)
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)
