"""The batched assignment against the rules of the paper, done slowly, one box and one anchor at a time."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stdet.boxes import decode_grid_boxes, grid_cells
from stdet_models_yolod.simota import _cheapest, _one_box_each, assign, pairwise_iou_cxcywh

SHARED = Path(os.environ.get("STDET_SHARED", Path(__file__).parents[4] / "shared"))
Found = dict[tuple[int, int], tuple[int, float]]


def slow_iou(a: list[float], b: list[float]) -> float:
    width = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    overlap = max(width, 0) * max(height, 0)
    union = a[2] * a[3] + b[2] * b[3] - overlap
    return overlap / union if union > 0 else 0.0


class Unclear(Exception):
    """An example that can't tell right from wrong."""


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_assign(boxes, cls, obj, centres, strides, gt, labels) -> Found:  # type: ignore[no-untyped-def]
    """Image and anchor to box and IoU.

    Raises:
        Unclear: the outcome hangs on float32 rounding.
    """
    found: Found = {}
    centres, strides = centres.tolist(), strides.tolist()
    for image in range(len(boxes)):
        predictions, truths, kinds = boxes[image].tolist(), gt[image].tolist(), labels[image].tolist()
        scores = [
            [math.sqrt(sigmoid(c) * sigmoid(o)) for c in own]
            for own, (o,) in zip(cls[image].tolist(), obj[image].tolist(), strict=True)
        ]
        real = [g for g, kind in enumerate(kinds) if kind >= 0]
        near = {
            g: [
                a
                for a, (x, y) in enumerate(centres)
                if abs(x - truths[g][0]) < 1.5 * strides[a] and abs(y - truths[g][1]) < 1.5 * strides[a]
            ]
            for g in real
        }
        candidates = sorted({a for anchors in near.values() for a in anchors})
        claims: dict[int, list[int]] = {}
        costs: dict[tuple[int, int], float] = {}
        for g in real:
            ious = {a: slow_iou(predictions[a], truths[g]) for a in candidates}
            for a in candidates:
                bce = sum(
                    -max(math.log(v), -100) if c == kinds[g] else -max(math.log1p(-v), -100)
                    for c, v in enumerate(scores[a])
                )
                costs[g, a] = bce - 3 * math.log(ious[a] + 1e-8) + (0 if a in near[g] else 1e6)
            if not near[g]:
                continue
            best = sorted(ious.values(), reverse=True)[:10]
            if not set(best) <= {0.0, 1.0} and abs(sum(best) - round(sum(best))) < 1e-4:
                raise Unclear
            k = max(1, int(sum(best)))
            order = sorted(candidates, key=lambda a: costs[g, a])
            for a in order[k:]:
                clear(costs[g, a], costs[g, order[k - 1]])
            for a in order[:k]:
                claims.setdefault(a, []).append(g)
        for a, wanting in claims.items():
            g = wanting[0]
            if len(wanting) > 1:  # the box with the least cost of all boxes, those that didn't claim it too
                ranked = sorted((g2 for g2 in real), key=lambda g2: costs[g2, a])
                g = ranked[0]
                for other in ranked[1:]:
                    clear(costs[other, a], costs[g, a])
            found[image, a] = (g, slow_iou(predictions[a], truths[g]))
    return found


def clear(more: float, less: float) -> None:
    """Two costs must differ by more than float32 rounds away."""
    if more - less < (0.2 if more > 1e5 else 1e-3):
        raise Unclear


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


def check(case) -> None:  # type: ignore[no-untyped-def]
    """The batched assignment of the case is the slow one's."""
    expected = slow_assign(*case)
    fast = assign(*case)
    rows = zip(fast.image.tolist(), fast.anchor.tolist(), fast.box.tolist(), fast.iou.tolist(), strict=True)
    found = {(image, anchor): (box, iou) for image, anchor, box, iou in rows}
    assert {key: box for key, (box, _) in found.items()} == {key: box for key, (box, _) in expected.items()}
    for key, (_, iou) in found.items():
        assert abs(iou - expected[key][1]) < 1e-4


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.sampled_from([32, 64, 96]),
    count=st.integers(1, 9),
    sharp=st.sampled_from([0.0, 0.5, 0.95]),
)
def test_the_assignment_is_the_papers(seed: int, size: int, count: int, sharp: float) -> None:
    try:
        check(random_case(seed, size, count, sharp))
    except Unclear:
        reject()


@given(
    costs=arrays(np.float32, (2, 3, 6), elements=st.sampled_from([1, 2, 3])),
    ious=arrays(np.float32, (2, 3, 6), elements=st.sampled_from([0, 0.5, 1])),
)
def test_of_equally_good_anchors_and_boxes_the_first_is_chosen(costs: np.ndarray, ious: np.ndarray) -> None:
    # From given costs: computed ones of equal predictions may differ in the last bit, as a vector instruction and what
    # it leaves over round differently.
    cost, iou = torch.from_numpy(costs), torch.from_numpy(ious)
    chosen = _cheapest(cost, iou, torch.ones(cost.shape, dtype=torch.bool))
    for image, box in np.ndindex(2, 3):
        k = max(1, int(sum(ious[image, box])))
        expected = sorted(range(6), key=lambda a: costs[image, box, a])[:k]
        assert chosen[image, box].nonzero().flatten().tolist() == sorted(expected)
    owned = _one_box_each(chosen, cost)
    for image, anchor in np.ndindex(2, 6):
        wanting = chosen[image, :, anchor].nonzero().flatten().tolist()
        owner = wanting if len(wanting) < 2 else [int(costs[image, :, anchor].argmin())]
        assert owned[image, :, anchor].nonzero().flatten().tolist() == owner


def test_the_assignment_is_the_papers_on_trained_weights() -> None:
    model, data = SHARED / "models/yolox_nano_coco_416.onnx", SHARED / "data/tiny_coco"
    if not (model.exists() and data.exists()):
        pytest.skip("the trained model or its images aren't here")
    annotations = json.loads((data / "annotations/instances_val2017.json").read_text())
    positions = {c["id"]: i for i, c in enumerate(sorted(annotations["categories"], key=lambda c: c["id"]))}
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    cells, strides = grid_cells([(52, 52), (26, 26), (13, 13)], (8, 16, 32), torch.device("cpu"))
    anchors = (cells + 0.5) * strides[:, None], strides
    checked = most = 0
    for entry in annotations["images"][:6]:
        ratio = min(416 / entry["height"], 416 / entry["width"])
        pixels = cv2.imread(str(data / "val2017" / entry["file_name"]))
        pixels = cv2.resize(pixels, (int(entry["width"] * ratio), int(entry["height"] * ratio)))
        image = np.full((416, 416, 3), 114, np.float32)
        image[: pixels.shape[0], : pixels.shape[1]] = pixels
        feed = {session.get_inputs()[0].name: image.transpose(2, 0, 1)[None]}
        output = torch.from_numpy(session.run(None, feed)[0])
        own = [a for a in annotations["annotations"] if a["image_id"] == entry["id"] and not a["iscrowd"]]
        if not own:
            continue
        xywh = torch.tensor([a["bbox"] for a in own])[None] * ratio
        gt = torch.cat((xywh[..., :2] + xywh[..., 2:] / 2, xywh[..., 2:]), -1)
        labels = torch.tensor([[positions[a["category_id"]] for a in own]])
        logits = output[..., 4:].clamp(1e-6, 1 - 1e-6).logit()
        case = (
            decode_grid_boxes(output[..., :4], cells, strides),
            logits[..., 1:],
            logits[..., :1],
            *anchors,
            gt,
            labels,
        )
        try:
            check(case)
        except Unclear:
            continue
        checked += 1
        most = max(most, int(assign(*case).box.bincount().max()))
    assert checked >= 4
    assert most >= 8, "trained predictions should give some box nearly ten anchors"


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
