"""Each kind of error on boxes painted for it, and precision, recall and F1 against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stdet.evaluation.coco import score
from stdet.evaluation.findings import find
from stdet.interfaces.dataset import DetectionDataset
from stdet.structures import Annotation, Detections

Row = tuple[float, float, float, float, int]
FAR = (60.0, 60.0, 80.0, 80.0)


class Painted(DetectionDataset):
    """Images of 100 pixels with the given objects; the last field of each says whether it is a crowd."""

    class_names = ("a", "b")

    def __init__(self, *images: list[tuple[Row, bool]]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def annotation(self, index: int) -> Annotation:
        rows = self.images[index]
        boxes = np.array([row[:4] for row, _ in rows], np.float32).reshape(-1, 4)
        area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).astype(np.float32)
        labels = np.array([row[4] for row, _ in rows], np.int64)
        return Annotation(index, None, 100, 100, boxes, labels, np.array([crowd for _, crowd in rows], bool), area)

    def read_image(self, index: int) -> np.ndarray:
        raise NotImplementedError


def detected(*rows: tuple[Row, float]) -> Detections:
    """Best first."""
    boxes = np.array([row[:4] for row, _ in rows], np.float32).reshape(-1, 4)
    labels = np.array([row[4] for row, _ in rows], np.int64)
    return Detections(boxes, np.array([s for _, s in rows], np.float32), labels)


OBJECT: Row = (10, 10, 30, 30, 0)


@pytest.mark.parametrize(
    ("found", "kinds", "pairs"),
    [
        ([(OBJECT, 0.9)], {}, [(0, 0)]),
        ([], {"missed": 1}, [(0, 2)]),
        ([((*OBJECT[:4], 1), 0.9)], {"class": 1}, [(0, 1)]),
        ([(OBJECT, 0.9), ((11, 10, 30, 30, 0), 0.8)], {"duplicate": 1}, [(0, 0), (2, 0)]),
        ([((20, 10, 40, 30, 0), 0.9)], {"localisation": 1}, [(2, 0), (0, 2)]),
        ([((*FAR, 0), 0.9), (OBJECT, 0.8)], {"background": 1}, [(0, 0), (2, 0)]),
        ([((*OBJECT[:4], 1), 0.9), (OBJECT, 0.8)], {"background": 1}, [(0, 0), (2, 1)]),  # the right one takes it
        ([(OBJECT, 0.9), ((*FAR, 0), 0.2)], {}, [(0, 0)]),  # too weak to be shown
    ],
    ids=["right", "missed", "class", "duplicate", "localisation", "background", "both", "weak"],
)
def test_each_kind_of_error_is_counted_and_stands_in_the_matrix(
    found: list[tuple[Row, float]], kinds: dict[str, int], pairs: list[tuple[int, int]]
) -> None:
    dataset, detections = Painted([(OBJECT, False)]), {0: detected(*found)}
    findings = find(dataset, detections, score(dataset, detections).matches, 0.25)
    assert {kind: count for kind, count in findings.errors.items() if count} == kinds
    expected = np.zeros((3, 3), int)
    np.add.at(expected, tuple(np.array(pairs).T), 1)
    assert findings.confusion.tolist() == expected.tolist()
    wrong = int(expected.sum() - np.trace(expected))
    assert findings.worst == ([(0, wrong)] if wrong else [])


def test_what_lies_in_a_crowd_is_no_error_and_crowds_are_not_missed() -> None:
    dataset = Painted([(OBJECT, False), ((50, 50, 100, 100, 1), True)])
    detections = {0: detected((OBJECT, 0.9), ((*FAR, 1), 0.8))}
    findings = find(dataset, detections, score(dataset, detections).matches, 0.25)
    assert (sum(findings.errors.values()), findings.confusion.sum(), findings.worst) == (0, 1, [])


def test_precision_recall_and_f1_are_those_of_the_threshold_and_the_best_one_is_found() -> None:
    dataset = Painted([(OBJECT, False), ((*FAR, 0), False)], [(OBJECT, False)])
    detections = {
        0: detected((OBJECT, 0.9), ((0, 80, 10, 90, 0), 0.6), ((*FAR, 0), 0.5)),
        1: detected((OBJECT, 0.5), ((0, 80, 10, 90, 0), 0.3)),
    }
    one, none = find(dataset, detections, score(dataset, detections).matches, 0.55).classes
    assert (one.objects, one.precision, one.recall, one.f1) == (3, 0.5, pytest.approx(1 / 3), pytest.approx(0.4))
    assert (one.best_f1, one.best_threshold) == (pytest.approx(6 / 7), 0.5)  # both of score 0.5, not one of them
    assert none.objects == 0
    assert np.isnan([none.precision, none.recall, none.f1, none.best_f1, none.best_threshold]).all()


def test_the_worst_image_comes_first() -> None:
    dataset = Painted([(OBJECT, False)], [(OBJECT, False), ((*FAR, 1), False)], [(OBJECT, False)])
    detections = {0: detected((OBJECT, 0.9)), 1: detected(), 2: detected()}
    assert find(dataset, detections, score(dataset, detections).matches, 0.25).worst == [(1, 2), (2, 1)]
