"""Scoring by arrays against pycocotools: every number that either can give, on sets made to disagree about."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdet.evaluation import by_pycocotools, matching, precision
from stdet.evaluation.coco import score
from stdet.evaluation.matching import IOU_THRESHOLDS
from stdet.interfaces.dataset import DetectionDataset
from stdet.structures import Annotation, Detections

SIDES = (8, 16, 31, 32, 33, 64, 96, 97, 120)
"""Of boxes: IoU that are exactly a threshold, and areas on both sides of COCO's limits and on them."""


class Tied(DetectionDataset):
    """Boxes on a coarse grid: equal overlaps, equal areas, the same box twice; images and classes without any."""

    class_names = ("a", "b", "nowhere")

    def __init__(self, seed: int, ignored: Literal["crowd", "difficult"]) -> None:
        rng = np.random.default_rng(seed)
        self.ignored = ignored
        self.annotations = []
        for index in range(int(rng.integers(1, 6))):
            boxes = grid(rng, int(rng.integers(0, 9)) * int(rng.integers(0, 2)))
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            areas *= rng.choice([1, 0.5], len(boxes))  # of a mask
            labels, ignore = rng.integers(0, 2, len(boxes)), rng.random(len(boxes)) < 0.3
            self.annotations.append(Annotation(index, None, 200, 200, boxes, labels, ignore, areas.astype(np.float32)))

    def __len__(self) -> int:
        return len(self.annotations)

    def annotation(self, index: int) -> Annotation:
        return self.annotations[index]

    def read_image(self, index: int) -> np.ndarray:
        raise NotImplementedError


def grid(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, sides = 8 * rng.integers(0, 6, (count, 2)), rng.choice(SIDES, (count, 2))
    return np.hstack([corner, corner + sides]).astype(np.float32)


def answers(dataset: Tied, seed: int, most: int) -> dict[int, Detections]:
    """True boxes, some of them twice, and invented ones, with few different scores; none of some images."""
    rng = np.random.default_rng(seed)
    found = {}
    for index in rng.permutation(len(dataset)).tolist():
        if rng.random() < 0.2:
            continue
        a = dataset.annotation(index)
        again = rng.integers(0, len(a.boxes), int(rng.integers(0, 12))) if len(a.boxes) else np.zeros(0, np.int64)
        other = grid(rng, int(rng.integers(0, most)))
        boxes = np.vstack([a.boxes[again], other])
        labels = np.concatenate([a.labels[again], rng.integers(0, 3, len(other))])
        scores = rng.integers(1, 6, len(boxes)).astype(np.float32) / 5
        found[index] = Detections(boxes, scores, labels)
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ignored=st.sampled_from(["crowd", "difficult"]),
    most=st.sampled_from([12, 12, 400]),  # beyond the 100 that count of an image and class
    block=st.sampled_from([3, 1 << 18]),
)
def test_every_number_is_that_of_pycocotools(
    seed: int, ignored: Literal["crowd", "difficult"], most: int, block: int
) -> None:
    dataset = Tied(seed, ignored)
    found = answers(dataset, seed + 1, most)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_BLOCK", block)
        ours = precision.judge(dataset, found, IOU_THRESHOLDS)
    theirs = by_pycocotools.judge(dataset, found, IOU_THRESHOLDS)
    for name in ("average", "precision", "recall"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-9, err_msg=name)
    for one, other in zip(ours.matches, theirs.matches, strict=True):
        for name in ("image", "true", "false", "objects"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_of_two_objects_that_overlap_equally_the_later_is_taken() -> None:
    """So that another detection, which lies on the later one, is wrong: pycocotools' choice, and it shows in the score."""
    dataset = Tied(0, "crowd")
    boxes, labels = np.array([[0, 0, 20, 10], [10, 0, 30, 10]], np.float32), np.zeros(2, np.int64)
    dataset.annotations = [Annotation(0, None, 50, 50, boxes, labels, np.zeros(2, bool), np.full(2, 200, np.float32))]
    between = Detections(np.array([[5, 0, 25, 10], boxes[1]], np.float32), np.array([0.9, 0.8], np.float32), labels)
    (one, *_), (other, *_) = (score(dataset, {0: between}, scorer=s).matches for s in ("stdet", "pycocotools"))
    np.testing.assert_array_equal(one.true[:, 1], [False, False, False, *[True] * 7])
    np.testing.assert_array_equal(one.true, other.true)


def test_either_scorer_fills_the_same_report() -> None:
    dataset = Tied(7, "crowd")
    found = answers(dataset, 8, 12)
    ours, theirs = (score(dataset, found, 0.3, scorer) for scorer in ("stdet", "pycocotools"))
    assert ours.metrics == pytest.approx(theirs.metrics, abs=1e-9, nan_ok=True)
    assert ours.per_class["a"] == pytest.approx(theirs.per_class["a"], abs=1e-9)
    assert ours.curves["AP50"] == pytest.approx(theirs.curves["AP50"], abs=1e-9)
    assert ours.metrics["AP@0.3"] > 0  # type: ignore[operator]
    assert ours[2:4] == theirs[2:4]


def test_memory_does_not_grow_with_the_pairs() -> None:
    """400 objects and 100 detections of each of 20 images: 800,000 pairs, which at once would take 100 MiB and more."""
    import tracemalloc

    rng = np.random.default_rng(0)
    dataset = Tied(1, "crowd")
    corner = rng.uniform(0, 1000, (20, 400, 2))
    boxes = np.concatenate([corner, corner + 40], -1).astype(np.float32)
    dataset.annotations = [
        Annotation(i, None, 1100, 1100, b, np.zeros(400, np.int64), np.zeros(400, bool), np.full(400, 1600, np.float32))
        for i, b in enumerate(boxes)
    ]
    found = {
        i: Detections(b[:100], rng.random(100).astype(np.float32), np.zeros(100, np.int64)) for i, b in enumerate(boxes)
    }
    tracemalloc.start()
    ours = precision.judge(dataset, found, IOU_THRESHOLDS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ours.recall[0, 0, 0, -1] == pytest.approx(0.25, abs=0.05)
    assert peak < 60 << 20
