"""Batched matching against a slow plain-Python oracle."""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stdet.interfaces.detector import Targets
from stdet.structures import DetectorSpec
from stdet_models_ssd.family import SSD, ForcedPriors
from stdet_models_ssd.matching import force_priors, match
from stdet_models_ssd.mobilenet_v1 import build_ssd
from stdet_models_ssd.priors import corners, priors_in_pixels

SIZE = (100, 140)
PRIORS = priors_in_pixels(*SIZE, SSD.strides, torch.device("cpu"))

Box = tuple[float, float, float, float]


def slow_iou(a: Box, b: Box) -> float:
    """One pair, in float32 as the code under test, so that equal overlaps are equal here too."""
    a, b = tuple(map(np.float32, a)), tuple(map(np.float32, b))
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return float(shared / union)


def slow_forced(iou: list[list[float]]) -> list[int]:
    """Rounds of requests, one box after the other; the strongest of those that ask for a prior gets it."""
    forced = [-1] * len(iou)
    taken: set[int] = set()
    waiting = list(range(len(iou)))
    while waiting:
        requests: dict[int, list[int]] = {}
        for box in waiting:
            free = [p for p in range(len(iou[box])) if p not in taken and iou[box][p] > 0]
            if free:
                requests.setdefault(max(free, key=lambda p: (iou[box][p], -p)), []).append(box)
        for prior, boxes in requests.items():
            winner = max(boxes, key=lambda b: (iou[b][prior], -b))
            forced[winner] = prior
            taken.add(prior)
        waiting = [b for boxes in requests.values() for b in boxes if forced[b] < 0]
    return forced


def slow_labels(
    iou: list[list[float]], labels: list[int], threshold: float, every: bool = False
) -> list[tuple[int, int]]:
    """(label, box) of each prior, -1 where there is no box; `every`: boxes without a prior of their own share the best."""
    forced = slow_forced(iou)
    weak = [box for box, row in enumerate(iou) if 0 < max(row) < threshold] if every else []
    found = []
    for prior in range(len(PRIORS)):
        if prior in forced:
            box = forced.index(prior)
            found.append((labels[box] + 1, box))
            continue
        best = max(range(len(iou)), key=lambda b: (iou[b][prior], -b))
        equals = [box for box in weak if iou[box][prior] >= 0.999 * max(iou[box])]
        if iou[best][prior] < threshold and equals:
            box = max(equals, key=lambda b: (iou[b][prior], -b))
            found.append((labels[box] + 1, box))
            continue
        found.append((labels[best] + 1, best) if iou[best][prior] >= threshold else (0, -1))
    return found


# Whole numbers make equal boxes and equal overlaps likely.
whole = st.tuples(st.integers(-40, 130), st.integers(-40, 90), st.integers(0, 90), st.integers(0, 70))
boxes_strategy = st.lists(whole.map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])), min_size=1, max_size=5)


def usable(box: Box) -> bool:
    inside = box[0] < SIZE[1] and box[1] < SIZE[0] and box[2] > 0 and box[3] > 0
    return inside and box[2] > box[0] and box[3] > box[1]


def targets_of(batch: list[list[Box]]) -> Targets:
    """Labels count up; padded as the loader does."""
    most = max(map(len, batch))
    boxes, labels = torch.zeros(len(batch), most, 4), torch.full((len(batch), most), -1)
    for image, own in enumerate(batch):
        for row, one in enumerate(own):
            boxes[image, row] = torch.tensor(one, dtype=torch.float32)
            labels[image, row] = row
    return Targets(boxes, labels)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(boxes_strategy, min_size=1, max_size=3),
    st.sampled_from([0.3, 0.5, 0.7]),
    st.sampled_from(get_args(ForcedPriors)),
)
def test_labels_and_boxes_are_those_of_the_slow_oracle(
    batch: list[list[Box]], threshold: float, forced: ForcedPriors
) -> None:
    matches = match(PRIORS, targets_of(batch), SIZE, threshold, forced)
    edges = [tuple(row) for row in corners(PRIORS).tolist()]
    for image, boxes in enumerate(batch):
        iou = [[slow_iou(box, edge) if usable(box) else 0.0 for edge in edges] for box in boxes]
        for prior, (label, box) in enumerate(slow_labels(iou, list(range(len(boxes))), threshold, forced == "all")):
            assert int(matches.labels[image, prior]) == label
            if label:
                assert matches.boxes[image, prior].tolist() == list(map(float, boxes[box]))


tables = st.integers(1, 5).flatmap(
    lambda priors: st.lists(
        st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75]), min_size=priors, max_size=priors), min_size=1, max_size=6
    )
)


@given(tables)
def test_forced_priors_are_those_of_the_slow_oracle_ties_included(table: list[list[float]]) -> None:
    owners = force_priors(torch.tensor([table, table[::-1]]))
    for owner, own in zip(owners.tolist(), (table, table[::-1]), strict=True):
        assert [owner.index(box) if box in owner else -1 for box in range(len(own))] == slow_forced(own)
        assert len(set(owner) - {-1}) == sum(box >= 0 for box in owner)


def test_equal_boxes_each_keep_a_prior() -> None:
    matches = match(PRIORS, targets_of([[(40, 30, 52, 41)] * 4]), SIZE, 0.99)
    assert sorted(matches.labels[matches.labels > 0].tolist()) == [1, 2, 3, 4]


def test_a_box_that_no_prior_covers_well_still_has_one() -> None:
    matches = match(PRIORS, targets_of([[(50, 50, 52, 51)]]), SIZE, 0.5)
    assert int((matches.labels > 0).sum()) == 1


def test_a_box_inside_many_priors_can_have_them_all_wherever_rounding_falls() -> None:
    priors = priors_in_pixels(300, 300, SSD.strides, torch.device("cpu"))
    counts = []
    for left in (150.1, 150.2, 150.3):
        targets = targets_of([[(left, 140.0, left + 18, 164.0)]])
        first, every = (match(priors, targets, (300, 300), 0.5, forced).labels[0] > 0 for forced in ("first", "all"))
        inside = (corners(priors)[:, :2] <= targets.boxes[0, 0, :2]) & (
            targets.boxes[0, 0, 2:] <= corners(priors)[:, 2:]
        )
        smallest = inside.all(1) & (priors[:, 2:].prod(1) < 3601)
        assert int(first.sum()) == 1
        assert every.tolist() == smallest.tolist()
        counts.append(int(every.sum()))
    assert min(counts) > 10


def test_boxes_outside_the_image_and_without_area_match_nothing() -> None:
    outside = [(-30.0, 10.0, -1.0, 40.0), (140.0, 0.0, 180.0, 50.0), (10.0, 100.0, 50.0, 130.0)]
    empty = [(20.0, 20.0, 20.0, 60.0), (30.0, 50.0, 20.0, 40.0)]
    assert not match(PRIORS, targets_of([[*outside, *empty]]), SIZE, 0.1).labels.any()


def test_an_image_without_boxes_is_background() -> None:
    for count in (0, 3):
        targets = Targets(torch.zeros(2, count, 4), torch.full((2, count), -1))
        assert not match(PRIORS, targets, SIZE, 0.5).labels.any()


def test_an_overlap_equal_to_the_threshold_is_positive() -> None:
    priors = torch.tensor([[50.0, 50, 40, 40], [50.0, 50, 40, 20]])
    targets = targets_of([[(30.0, 30.0, 70.0, 70.0)]])
    assert match(priors, targets, SIZE, 0.5).labels.tolist() == [[1, 1]]
    assert match(priors, targets, SIZE, 0.51).labels.tolist() == [[1, 0]]


def test_the_model_calls_hard_what_gets_its_prior_by_force_alone() -> None:
    preprocess = dataclasses.replace(SSD.preprocess, height=SIZE[0], width=SIZE[1])
    spec = DetectorSpec("ssd_mobilenetv1_pt", "ssd", ("a",), preprocess, "ssd", SSD.strides, {"width_mult": 0.25})
    corner = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 60
    boxes = torch.cat([corner, corner + 2 + 38 * torch.rand(40, 2, generator=torch.Generator().manual_seed(1))], 1)
    hard = build_ssd(spec).hard_to_assign(boxes)
    priors = [tuple(p) for p in corners(PRIORS).tolist()]
    for box, is_hard in zip(boxes, hard.tolist(), strict=True):
        assert is_hard == all(slow_iou(tuple(box.tolist()), prior) < 0.5 for prior in priors)
        one = Targets(box.view(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64))
        assert int((match(PRIORS, one, SIZE, 0.5).labels > 0).sum()) == 1 or not is_hard
    assert 0 < int(hard.sum()) < 40
