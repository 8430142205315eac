"""Box arithmetic against slow plain Python and against counting the pixels of painted boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stdet import boxes as bx

Box = tuple[float, float, float, float]

unhurried = settings(max_examples=60, deadline=None)  # the first torch call of a process takes a second

coordinate = st.integers(-40, 140).map(lambda n: n / 2)  # halves are exact in float32
pixel = st.integers(0, 24)


@st.composite
def xyxy(draw: st.DrawFn) -> Box:
    x, y = draw(coordinate), draw(coordinate)
    w, h = draw(st.integers(0, 80)) / 2, draw(st.integers(0, 80)) / 2
    return x, y, x + w, y + h


def slow_iou(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = width * height if width > 0 and height > 0 else 0.0
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - both
    return both / union if union > 0 else 0.0


@unhurried
@given(st.lists(xyxy(), max_size=6), st.lists(xyxy(), max_size=6))
def test_pairwise_iou_is_the_slow_one(one: list[Box], other: list[Box]) -> None:
    found = bx.pairwise_iou(torch.tensor(one).reshape(-1, 4), torch.tensor(other).reshape(-1, 4))
    expected = torch.tensor([[slow_iou(a, b) for b in other] for a in one]).reshape(len(one), len(other))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@unhurried
@given(st.lists(st.tuples(xyxy(), xyxy()), min_size=1, max_size=8))
def test_aligned_iou_is_the_diagonal_and_symmetric(pairs: list[tuple[Box, Box]]) -> None:
    one, other = (torch.tensor(column) for column in zip(*pairs, strict=True))
    found = bx.aligned_iou(one, other)
    assert torch.equal(found, bx.pairwise_iou(one, other).diagonal())
    assert torch.equal(found, bx.aligned_iou(other, one))


@unhurried
@given(st.tuples(pixel, pixel, pixel, pixel), st.tuples(pixel, pixel, pixel, pixel))
def test_area_and_overlap_are_what_painting_the_boxes_counts(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    painted = []
    for x1, y1, x2, y2 in (a, b):
        canvas = np.zeros((24, 24), bool)
        canvas[y1:y2, x1:x2] = True  # empty where a side is negative
        painted.append(canvas)
    boxes = torch.tensor([a, b], dtype=torch.float32)
    assert bx.area(boxes).tolist() == [float(canvas.sum()) for canvas in painted]
    union = (painted[0] | painted[1]).sum()
    expected = (painted[0] & painted[1]).sum() / union if union else 0.0
    assert float(bx.aligned_iou(boxes[0], boxes[1])) == pytest.approx(expected, rel=1e-6)


@unhurried
@given(xyxy())
def test_every_form_leads_back_to_the_box_it_came_from(box: Box) -> None:
    boxes = torch.tensor([box])
    assert torch.equal(bx.cxcywh_to_xyxy(bx.xyxy_to_cxcywh(boxes)), boxes)
    assert torch.equal(bx.xywh_to_xyxy(bx.xyxy_to_xywh(boxes)), boxes)


def test_the_forms_of_one_box_written_out() -> None:
    box = torch.tensor([10.0, 20.0, 16.0, 40.0])
    assert bx.xyxy_to_cxcywh(box).tolist() == [13, 30, 6, 20]
    assert bx.xyxy_to_xywh(box).tolist() == [10, 20, 6, 20]


@unhurried
@given(xyxy(), st.integers(1, 60), st.integers(1, 60))
def test_clipping_is_pythons_min_and_max(box: Box, height: int, width: int) -> None:
    limits = (width, height, width, height)
    expected = [min(max(value, 0), limit) for value, limit in zip(box, limits, strict=True)]
    assert bx.clip(torch.tensor(box), (height, width)).tolist() == expected


def test_boxes_without_area_have_overlap_and_gradient_zero() -> None:
    flat = torch.tensor([[5.0, 5, 9, 5]], requires_grad=True)
    overlap = bx.aligned_iou(flat, torch.tensor([[6.0, 5, 8, 5]]))
    overlap.sum().backward()
    assert overlap.tolist() == [0.0]
    assert flat.grad is not None
    assert flat.grad.tolist() == [[0.0] * 4]


def test_a_batch_of_pairs_is_each_image_on_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 5, 2, generator=generator) * 50
    boxes = torch.cat((corner, corner + 30 * torch.rand(2, 5, 2, generator=generator)), -1)
    found = bx.pairwise_iou(boxes, boxes[:, :3])
    assert found.shape == (2, 5, 3)
    for image in range(2):
        assert torch.equal(found[image], bx.pairwise_iou(boxes[image], boxes[image, :3]))
