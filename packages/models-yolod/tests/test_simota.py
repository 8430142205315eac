"""The batched assignment against the rules of the paper, done slowly, one box and one anchor at a time."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stdet_models_yolod.simota import assign, pairwise_iou_cxcywh

Found = dict[tuple[int, int], tuple[int, float]]


def slow_iou(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    overlap = max(width, 0) * max(height, 0)
    union = a[2] * a[3] + b[2] * b[3] - overlap
    return overlap / union if union > 0 else 0.0


def slow_assign(boxes, cls, obj, centres, strides, gt, labels) -> Found:  # type: ignore[no-untyped-def]
    """Image and anchor to box and IoU."""
    found: Found = {}
    for image in range(len(boxes)):
        real = [g for g in range(gt.shape[1]) if labels[image, g] >= 0]
        near = {
            g: [
                a
                for a in range(len(centres))
                if abs(float(centres[a, 0] - gt[image, g, 0])) < 1.5 * float(strides[a])
                and abs(float(centres[a, 1] - gt[image, g, 1])) < 1.5 * float(strides[a])
            ]
            for g in real
        }
        candidates = sorted({a for anchors in near.values() for a in anchors})
        claims: dict[int, list[tuple[float, int]]] = {}
        costs: dict[tuple[int, int], float] = {}
        for g in real:
            if not near[g]:
                continue
            ious = {a: slow_iou(boxes[image, a].tolist(), gt[image, g].tolist()) for a in candidates}
            for a in candidates:
                p = (torch.sigmoid(cls[image, a]) * torch.sigmoid(obj[image, a])).sqrt().tolist()
                bce = sum(
                    -max(math.log(v), -100) if c == labels[image, g] else -max(math.log1p(-v), -100)
                    for c, v in enumerate(p)
                )
                costs[g, a] = bce - 3 * math.log(ious[a] + 1e-8) + (0 if a in near[g] else 1e6)
            k = max(1, int(sum(sorted(ious.values(), reverse=True)[:10])))
            for a in sorted(candidates, key=lambda a: costs[g, a])[:k]:
                claims.setdefault(a, []).append((costs[g, a], g))
        for a, wanting in claims.items():
            # Several claims: the box with the least cost of all boxes, claimed or not, as in the reference.
            g = wanting[0][1]
            if len(wanting) > 1:
                g = min((costs[g2, a], g2) for g2 in real if (g2, a) in costs)[1]
            found[image, a] = (g, slow_iou(boxes[image, a].tolist(), gt[image, g].tolist()))
    return found


def random_case(seed: int, size: int, count: int, sharp: float):  # type: ignore[no-untyped-def]
    """Predictions that resemble the ground truth more the larger `sharp` is, so that k goes up to 10."""
    rng = torch.Generator().manual_seed(seed)
    cells, strides = [], []
    for stride in (8, 16, 32):
        for y in range(size // stride):
            for x in range(size // stride):
                cells.append([(x + 0.5) * stride, (y + 0.5) * stride])
                strides.append(float(stride))
    centres, stride_of = torch.tensor(cells), torch.tensor(strides)
    gt = torch.rand(2, count, 4, generator=rng) * size
    gt[..., 2:] = gt[..., 2:] * 0.6 + 4
    labels = torch.randint(-1, 3, (2, count), generator=rng).sort(descending=True).values
    boxes = torch.cat([centres, stride_of[:, None].repeat(1, 2) * 3], 1).repeat(2, 1, 1)
    for image in range(2):
        nearest = (centres[:, None] - gt[image, None, :, :2]).abs().sum(-1).argmin(1)
        mixed = sharp * gt[image, nearest] + (1 - sharp) * boxes[image]
        boxes[image] = mixed + torch.randn(len(centres), 4, generator=rng) * 2
    boxes[..., 2:] = boxes[..., 2:].clamp(min=2)
    cls = torch.randn(2, len(centres), 3, generator=rng) * 2
    obj = torch.randn(2, len(centres), 1, generator=rng) * 2
    return boxes, cls, obj, centres, stride_of, gt, labels


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([32, 64, 96]),
    count=st.integers(1, 9),
    sharp=st.sampled_from([0.0, 0.5, 0.95]),
)
def test_the_assignment_is_the_papers(seed: int, size: int, count: int, sharp: float) -> None:
    case = random_case(seed, size, count, sharp)
    fast = assign(*case)
    found = {
        (int(i), int(a)): (int(g), float(v))
        for i, a, g, v in zip(fast.image, fast.anchor, fast.box, fast.iou, strict=True)
    }
    expected = slow_assign(*case)
    assert {key: box for key, (box, _) in found.items()} == {key: box for key, (box, _) in expected.items()}
    for key, (_, iou) in found.items():
        assert abs(iou - expected[key][1]) < 1e-4


def test_a_well_predicted_box_gets_many_anchors() -> None:
    case = random_case(3, 96, 1, 0.97)
    labels = torch.tensor([[1], [0]])
    counts = assign(*case[:-1], labels).image.bincount(minlength=2)
    assert counts.max() >= 5


def test_no_valid_box_gives_no_positive() -> None:
    case = random_case(0, 64, 3, 0.5)
    assert len(assign(*case[:-1], torch.full((2, 3), -1)).anchor) == 0


@given(st.integers(0, 10**6))
def test_pairwise_iou_is_the_slow_one(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    one, other = torch.rand(1, 3, 4, generator=rng) * 10, torch.rand(1, 5, 4, generator=rng) * 10
    fast = pairwise_iou_cxcywh(one, other)[0]
    for i in range(3):
        for j in range(5):
            assert abs(float(fast[i, j]) - slow_iou(one[0, i].tolist(), other[0, j].tolist())) < 1e-5
