"""Average precision and recall by COCO's rules from matches: what is counted, and what it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stdet.evaluation.chance import ClassMatches
from stdet.evaluation.matching import AREAS, MAX_PER_CLASS, Found, Objects, match
from stdet.interfaces.dataset import DetectionDataset
from stdet.structures import Detections

RECALLS = np.linspace(0, 1, 101)
LIMITS = (1, 10, MAX_PER_CLASS)
"""So many detections of an image and class count in a recall."""


@dataclass(frozen=True)
class Judgement:
    """What detections score, by IoU threshold (T), class (K), size (A: all, small, medium, large) and limit (M: 1, 10, 100).

    Attributes:
        average: float64 (T, K, A), average precision, the mean over 101 recalls, 0..1; NaN for nothing to find.
        precision: float64 (T, 101, K), at recall 0, 0.01, …, 1, of objects of any size.
        recall: float64 (T, K, A, M).
        matches: by class; see `stdet.evaluation.chance`.
    """

    average: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    matches: list[ClassMatches]


def judge(dataset: DetectionDataset, found: Mapping[int, Detections], thresholds: np.ndarray) -> Judgement:
    """Args:
    found: detections in image pixels, by image index.
    thresholds: float64 (T,), least IoU of a match, 0..1.
    """
    classes = len(dataset.class_names)
    average = np.full((len(thresholds), classes, len(AREAS)), np.nan)
    recall = np.full((*average.shape, len(LIMITS)), np.nan)
    precision = np.full((len(thresholds), len(RECALLS), classes), np.nan)
    matches = []
    parts = zip(Objects.of(dataset).by_class(classes), Found.of(found).by_class(classes), strict=True)
    for k, (objects, one) in enumerate(parts):
        matched = match(objects, one, thresholds, dataset.ignored == "difficult")
        order = np.argsort(-one.score, kind="stable")
        one = one.rows(order)
        for a, counted in enumerate(matched.objects.sum(1)):
            right, wrong = matched.right[a][:, order], matched.wrong[a][:, order]
            if a == 0:
                images = np.bincount(objects.image[matched.objects[0]], minlength=len(dataset))
                matches.append(ClassMatches(one.image, right, wrong, images, one.score))
            if counted:
                curves = precision_at_recalls(right, wrong, counted)
                average[:, k, a] = curves.mean(1)
                recall[:, k, a] = np.stack([(right & (one.rank < m)).sum(1) for m in LIMITS], 1) / counted
                if a == 0:
                    precision[..., k] = curves
    return Judgement(average, precision, recall, matches)


def precision_at_recalls(right: np.ndarray, wrong: np.ndarray, objects: int) -> np.ndarray:
    """(T, 101): the best precision at each recall or beyond it; 0 where none reaches it.

    Args:
        right, wrong: bool (T, D), best first.
    """
    found = np.zeros((len(right), len(RECALLS)))
    for t, (is_right, is_wrong) in enumerate(zip(right, wrong, strict=True)):
        at = np.flatnonzero(is_right)  # between them precision falls and recall stays
        true = np.arange(1.0, len(at) + 1)
        precision = true / (np.cumsum(is_wrong)[at] + true + np.spacing(1))
        best = np.maximum.accumulate(precision[::-1])[::-1]
        place = np.searchsorted(true / objects, RECALLS)
        found[t, place < len(at)] = best[place[place < len(at)]]
    return found
