"""Box arithmetic: forms, areas and overlaps of float tensors whose last axis holds one box.

Forms: `xyxy` (left, top, right, bottom), `xywh` (left, top, width, height), `cxcywh` (centre, width, height), all in
the same unit, pixels or parts of the image. Give float32: areas of large boxes overflow float16.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) to (..., 4)."""
    half = boxes[..., 2:] / 2
    return torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) to (..., 4)."""
    size = boxes[..., 2:] - boxes[..., :2]
    return torch.cat((boxes[..., :2] + size / 2, size), -1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) to (..., 4)."""
    return torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), -1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """(..., 4) to (..., 4)."""
    return torch.cat((boxes[..., :2], boxes[..., 2:] - boxes[..., :2]), -1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """xyxy (..., 4) in pixels cut to an image of `size` (height, width); a box outside becomes one without area."""
    height, width = size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def area(boxes: Tensor) -> Tensor:
    """xyxy (..., 4) to (...); 0 where a side is negative."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def aligned_iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of matching boxes: xyxy (..., 4) and (..., 4), which may broadcast, to (...).

    0, with gradient 0, where neither box has an area.
    """
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    both = sides.clamp(min=0).prod(-1)
    union = area(one) + area(other) - both
    something = union > 0
    return torch.where(something, both / torch.where(something, union, 1), 0)


def pairwise_iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of every pair: xyxy (..., N, 4) and (..., M, 4) to (..., N, M), as `aligned_iou`."""
    return aligned_iou(one[..., :, None, :], other[..., None, :, :])


def grid_cells(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Cell indices (N, 2) as (x, y) and strides (N,) of all anchors, float32: levels, then rows, then columns.

    Cached: not to be written to.

    Args:
        sizes: (height, width) of each level in cells.
    """
    return _grid_cells(tuple(sizes), tuple(strides), torch.device(device))


@lru_cache(maxsize=64)
def _grid_cells(
    sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    cells = []
    for height, width in sizes:
        y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
        cells.append(torch.stack((x, y), -1).reshape(-1, 2).float())
    per_level = [torch.full((len(own),), float(s), device=device) for own, s in zip(cells, strides, strict=True)]
    return torch.cat(cells), torch.cat(per_level)


def decode_grid_boxes(raw: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
    """YOLOX's raw (B, N, 4) regression (arXiv 2107.08430) to cxcywh in pixels; the rest as `grid_cells` gives it."""
    return torch.cat((raw[..., :2] + cells, raw[..., 2:].exp()), -1) * strides[:, None]
