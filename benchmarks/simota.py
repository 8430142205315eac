"""Label assignment over a batch against the same rules applied image by image, box by box, as YOLOX does.

The baseline is our own plain implementation of the paper's loop (a matrix of boxes x anchors x classes an image, then a
Python loop over boxes); both must choose the same anchors. Run: python benchmarks/simota.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from harness import arguments, interleave, report, save
from torch import Tensor

from stdet_models_yolod.simota import assign, pairwise_iou_cxcywh

BATCH, SIZE, CLASSES = 16, 320, 80


def image_by_image(
    boxes: Tensor, cls: Tensor, obj: Tensor, centres: Tensor, strides: Tensor, gt: Tensor, labels: Tensor
) -> set[tuple[int, int, int]]:
    found = set()
    for image in range(len(boxes)):
        own = gt[image][labels[image] >= 0]
        kinds = labels[image][labels[image] >= 0]
        near = ((centres[None] - own[:, None, :2]).abs() < 1.5 * strides[None, :, None]).all(-1)
        index = near.any(0).nonzero()[:, 0]
        near = near[:, index]
        iou = pairwise_iou_cxcywh(own[None], boxes[image, index][None])[0]
        target = F.one_hot(kinds, CLASSES).float()[:, None].expand(-1, len(index), -1)
        score = (cls[image, index].sigmoid() * obj[image, index].sigmoid()).sqrt()
        class_cost = F.binary_cross_entropy(score[None].expand(len(own), -1, -1), target, reduction="none").sum(-1)
        cost = class_cost - 3 * (iou + 1e-8).log() + 1e6 * ~near
        matching = torch.zeros_like(cost, dtype=torch.uint8)
        wanted = iou.topk(min(10, len(index)), 1).values.sum(1).int().clamp(min=1)
        for g in range(len(own)):
            _, chosen = cost[g].topk(int(wanted[g]), largest=False)
            matching[g, chosen] = 1
        contested = matching.sum(0) > 1
        if contested.any():
            best = cost[:, contested].argmin(0)
            matching[:, contested] = 0
            matching[best, contested.nonzero()[:, 0]] = 1
        g, a = matching.nonzero(as_tuple=True)
        found |= {(image, int(index[j]), int(i)) for i, j in zip(g, a, strict=True)}
    return found


def case(count: int) -> tuple[Tensor, ...]:
    torch.manual_seed(count)
    cells, strides = [], []
    for stride in (8, 16, 32):
        y, x = torch.meshgrid(torch.arange(SIZE // stride), torch.arange(SIZE // stride), indexing="ij")
        cells.append(torch.stack((x, y), -1).reshape(-1, 2) * stride + stride / 2)
        strides.append(torch.full((len(cells[-1]),), float(stride)))
    centres, stride_of = torch.cat(cells), torch.cat(strides)
    gt = torch.rand(BATCH, count, 4) * SIZE
    gt[..., 2:] = gt[..., 2:] * 0.3 + 8
    nearest = (centres[None, :, None] - gt[:, None, :, :2]).abs().sum(-1).argmin(-1)
    boxes = gt.gather(1, nearest[..., None].expand(-1, -1, 4)) + torch.randn(BATCH, len(centres), 4) * 6
    boxes[..., 2:] = boxes[..., 2:].clamp(min=4)
    labels = torch.randint(0, CLASSES, (BATCH, count))
    return (
        boxes,
        torch.randn(BATCH, len(centres), CLASSES),
        torch.randn(BATCH, len(centres), 1),
        centres,
        stride_of,
        gt,
        labels,
    )


def main() -> None:
    args = arguments(__doc__ or "", rounds=9)
    results = []
    for count in (12, 30):
        inputs = case(count)
        fast = assign(*inputs)
        chosen = {(int(i), int(a), int(g)) for i, a, g in zip(fast.image, fast.anchor, fast.box, strict=True)}
        slow = image_by_image(*inputs)
        print(f"{count} boxes an image: {len(chosen)} positives, {len(chosen ^ slow)} chosen differently")
        variants = {"image by image": lambda i=inputs: image_by_image(*i), "whole batch": lambda i=inputs: assign(*i)}
        results.append(
            report(f"assignment, {count} boxes an image", interleave(variants, args.rounds), "image by image")
        )
    save(args.json, results)


if __name__ == "__main__":
    main()
