"""Prior boxes of the six levels, and the coding of boxes against them (SSD, arXiv 1512.02325)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

PRIORS_PER_CELL = 6
CENTER_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
SMALLEST = (0.20, 0.35, 0.50, 0.65, 0.80, 0.95)
"""Side of the small square prior of each level, in parts of the input's side."""
STEP_TO_NEXT = 0.15
RATIOS = (2.0, 3.0)
LEVELS_WITH_STRIDE = 3
"""On the first levels cells lie a stride apart; on the others they divide the input evenly."""


@lru_cache(maxsize=64)
def make_priors(height: int, width: int, strides: tuple[int, ...]) -> np.ndarray:
    """The priors of an input of `height` x `width` pixels. Cached: not to be written to.

    A level of stride s has ceil(height / s) x ceil(width / s) cells. Along each side the cells of the first three levels
    lie s pixels apart, those of the coarser ones side / cells. Each cell has six boxes: a square of the level's `min`,
    one of sqrt(min * max), then ratios 2, 1/2, 3, 1/3 of `min`'s area. `min` and `max` are parts of each *side*, so a
    non-square input has the priors of the square one, stretched like its image.

    At 300 x 300 this is the reference's table, in which published weights were trained; its clamp, which acts on centres
    and sizes and not on corners, is kept at every size.

    Returns:
        float32 (P, 4): cx, cy, w, h in parts of the width and height, 0..1. Rows run over levels, y, x, box.
    """
    levels = []
    for level, (stride, smallest) in enumerate(zip(strides, SMALLEST, strict=True)):
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        even = level >= LEVELS_WITH_STRIDE
        cy = (np.arange(rows) + 0.5) * (1 / rows if even else stride / height)
        cx = (np.arange(columns) + 0.5) * (1 / columns if even else stride / width)
        cells = np.empty((rows, columns, PRIORS_PER_CELL, 4))
        cells[..., 0] = cx[None, :, None]
        cells[..., 1] = cy[:, None, None]
        cells[..., 2:] = _shapes(smallest, smallest + STEP_TO_NEXT)
        levels.append(cells.reshape(-1, 4))
    return np.concatenate(levels).clip(0, 1).astype(np.float32)


def _shapes(smallest: float, largest: float) -> np.ndarray:
    """(6, 2): widths and heights of a cell's boxes."""
    between = math.sqrt(smallest * largest)
    shapes = [(smallest, smallest), (between, between)]
    for root in map(math.sqrt, RATIOS):
        shapes += [(smallest * root, smallest / root), (smallest / root, smallest * root)]
    return np.array(shapes)


@lru_cache(maxsize=64)
def priors_in_pixels(height: int, width: int, strides: tuple[int, ...], device: torch.device) -> Tensor:
    """`make_priors` as a float32 tensor (P, 4) on `device`: cx, cy, w, h in pixels. Cached: not to be written to."""
    unit = torch.from_numpy(make_priors(height, width, strides))
    return (unit * torch.tensor([width, height, width, height], device="cpu")).to(device)


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    """What the network shall predict at `priors` to mean `boxes`.

    Args:
        boxes: float32 (..., 4), xyxy, pixels.
        priors: float32 (..., 4), cx, cy, w, h, pixels.

    Returns:
        float32 (..., 4): offset of the centre in prior sizes / 0.1, log of the size ratio / 0.2. Finite: a box without
        extent counts as 1e-8 of its prior.
    """
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    ratio = (boxes[..., 2:] - boxes[..., :2]) / priors[..., 2:]
    offset = (center - priors[..., :2]) / priors[..., 2:] / CENTER_VARIANCE
    return torch.cat((offset, ratio.clamp(min=1e-8).log() / SIZE_VARIANCE), -1)


def decode(offsets: Tensor, priors: Tensor) -> Tensor:
    """The inverse of `encode`: float32 (..., 4), xyxy, pixels, not clipped."""
    center = offsets[..., :2] * CENTER_VARIANCE * priors[..., 2:] + priors[..., :2]
    half = (offsets[..., 2:] * SIZE_VARIANCE).exp() * priors[..., 2:] / 2
    return torch.cat((center - half, center + half), -1)


def corners(priors: Tensor) -> Tensor:
    """floating (..., 4), cx, cy, w, h, to xyxy, in the same unit."""
    half = priors[..., 2:] / 2
    return torch.cat((priors[..., :2] - half, priors[..., :2] + half), -1)
