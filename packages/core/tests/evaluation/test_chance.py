"""The bootstrap against pycocotools on drawn data sets, and against what is known of chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from stdet.evaluation.chance import METRICS, Interval, difference, mean_precisions
from stdet.evaluation.coco import score
from stdet.interfaces.dataset import DetectionDataset
from stdet.structures import Annotation, Detections

SIZE, CLASSES = 200, 3


class Drawn(DetectionDataset):
    """Random boxes, some of them crowds; `chosen` says which image is at which index, several times perhaps."""

    class_names = tuple("abc")

    def __init__(self, chosen: Sequence[int]) -> None:
        self.chosen = list(chosen)

    def __len__(self) -> int:
        return len(self.chosen)

    def annotation(self, index: int) -> Annotation:
        rng = np.random.default_rng(self.chosen[index])
        count = int(rng.integers(0, 6))
        corner, side = rng.uniform(0, 150, (count, 2)), rng.uniform(10, 50, (count, 2))
        boxes = np.concatenate((corner, corner + side), 1, dtype=np.float32)
        labels, crowd = rng.integers(0, CLASSES, count), rng.random(count) < 0.15
        return Annotation(index, None, SIZE, SIZE, boxes, labels, crowd, side.prod(1).astype(np.float32))

    def read_image(self, index: int) -> np.ndarray:
        raise NotImplementedError


def noisy(dataset: Drawn, spread: float, seed: int = 0) -> dict[int, Detections]:
    """Each box found, moved by some pixels, beside inventions; scores as they come."""
    found = {}
    for index, image in enumerate(dataset.chosen):
        rng, truth = np.random.default_rng([image, seed]), dataset.annotation(index)
        moved = truth.boxes + rng.normal(0, spread, truth.boxes.shape)
        corner = rng.uniform(0, 150, (4, 2))
        boxes = np.concatenate((moved, np.concatenate((corner, corner + 30), 1))).astype(np.float32)
        labels = np.concatenate((truth.labels, rng.integers(0, CLASSES, 4)))
        scores = rng.random(len(boxes)).astype(np.float32)
        order = np.argsort(-scores)
        found[index] = Detections(boxes[order], scores[order], labels[order])
    return found


@pytest.mark.parametrize("draw", [range(12), [0, 0, 0, 3, 5, 7, 7], [4, 9, 9, 10, 10, 10, 11, 2, 1], [8]])
def test_a_draw_scores_what_pycocotools_gives_its_images(draw: Sequence[int]) -> None:
    whole, drawn = Drawn(range(12)), Drawn(draw)
    weights = np.bincount(list(draw), minlength=12)[None]
    found = mean_precisions(score(whole, noisy(whole, 4)).matches, weights)
    expected = score(drawn, noisy(drawn, 4)).metrics
    for name in METRICS:
        assert found[name][0] == pytest.approx(expected[name], abs=1e-9)


def test_a_draw_that_shows_no_object_has_no_score() -> None:
    empty = next(i for i in range(100) if not len(Drawn([i]).annotation(0).boxes))
    whole = Drawn([empty, 1, 2])
    assert np.isnan(mean_precisions(score(whole, noisy(whole, 4)).matches, np.array([[3, 0, 0]]))["AP"]).all()


def test_equal_models_differ_by_nothing_and_a_worse_one_measurably() -> None:
    whole = Drawn(range(40))
    good, bad = score(whole, noisy(whole, 1)).matches, score(whole, noisy(whole, 12)).matches
    assert difference(good, good, 40)["AP"] == Interval(0.0, 0.0, 0.0)
    lost = difference(good, bad, 40, 100)
    assert lost["AP"].low > 0
    assert not lost["AP"].holds_zero
    assert difference(good, bad, 40, 100) == lost  # the same draws each time
    assert lost["AP"].low < 100 * (mean(good) - mean(bad)) < lost["AP"].high


def test_two_models_that_only_luck_tells_apart_are_not_measurably_different() -> None:
    whole = Drawn(range(40))
    one, other = (score(whole, noisy(whole, 4, seed)).matches for seed in (1, 2))
    assert difference(one, other, 40)["AP"].holds_zero


def test_more_images_leave_less_to_chance() -> None:
    few, many = Drawn(range(10)), Drawn(range(160))
    widths = [
        difference(score(d, noisy(d, 4, 1)).matches, score(d, noisy(d, 4, 2)).matches, len(d), 100)["AP"].deviation
        for d in (few, many)
    ]
    assert widths[1] < widths[0] / 2


def test_one_image_says_nothing_of_chance() -> None:
    whole = Drawn([1])
    assert difference(score(whole, noisy(whole, 4)).matches, score(whole, noisy(whole, 4)).matches, 1) == {}


def mean(classes: list) -> float:  # type: ignore[type-arg]
    return float(mean_precisions(classes, np.ones((1, 40), np.int64))["AP"][0])
