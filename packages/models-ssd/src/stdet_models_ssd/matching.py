"""Which prior learns which box: SSD's matching for a whole batch at once (arXiv 1512.02325, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from stdet.interfaces.detector import Targets
from stdet_models_ssd.family import ForcedPriors
from stdet_models_ssd.priors import corners


@dataclass(frozen=True)
class Matches:
    """Attributes:
    labels: int64 (B, P), 0 is background, k + 1 is class k.
    boxes: float32 (B, P, 4), xyxy pixels: the box of each prior; means nothing where the label is 0.
    """

    labels: Tensor
    boxes: Tensor


def match(
    priors: Tensor, targets: Targets, input_size: tuple[int, int], threshold: float, forced: ForcedPriors = "first"
) -> Matches:
    """Give every prior its box or the background.

    A prior takes the box that it overlaps most when the IoU is at least `threshold`. Every box has one prior by force,
    whatever the IoU (see `force_priors`). Boxes without area or wholly outside the input match nothing.

    A box smaller than the smallest priors lies inside many, with the same IoU, and `force_priors` gives it the first of
    them, wherever that is; the others, which look alike, learn that there is nothing. `forced="all"` gives such a box,
    which overlaps no prior by `threshold`, every prior that it overlaps most and that has no better use.

    Args:
        priors: float32 (P, 4), cx, cy, w, h, pixels.
        targets: boxes in pixels of the input.
        input_size: (height, width), pixels.
        forced: `first`, as the reference, or `all`.
    """
    batch, count = targets.labels.shape
    if count == 0:
        shape = (batch, len(priors))
        return Matches(targets.labels.new_zeros(shape), priors.new_zeros((*shape, 4)))
    boxes = targets.boxes.float()
    # A box of zeros overlaps nothing.
    iou = overlaps(boxes * usable(boxes, targets.valid, input_size)[..., None], corners(priors))
    best, box_of = iou.max(1)
    if forced == "all":
        weak, weak_box = _as_good_as_best(iou, threshold).max(1)
        taken = (best < threshold) & (weak > 0)
        box_of, best = torch.where(taken, weak_box, box_of), best.masked_fill(taken, 1)
    owner = force_priors(iou)
    box_of = torch.where(owner >= 0, owner, box_of)
    labels = torch.where((best >= threshold) | (owner >= 0), targets.labels.gather(1, box_of) + 1, 0)
    return Matches(labels, boxes.gather(1, box_of[..., None].expand(-1, -1, 4)))


def usable(boxes: Tensor, valid: Tensor, input_size: tuple[int, int]) -> Tensor:
    """bool (B, M): boxes (B, M, 4) that are no padding, have an area, and reach into the input."""
    height, width = input_size
    x1, y1, x2, y2 = boxes.unbind(-1)
    return valid & (x2 > x1) & (y2 > y1) & (x2 > 0) & (y2 > 0) & (x1 < width) & (y1 < height)


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes (B, M, 4) with others (P, 4), both xyxy: float32 (B, M, P), 0..1, 0 for a box without area."""
    # One coordinate at a time: the last axis of the large tensors stays contiguous.
    x1, y1, x2, y2 = boxes[..., None, :].unbind(-1)
    left, top, right, bottom = others.unbind(-1)
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp_(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp_(min=0)
    shared = width.mul_(height)
    union = ((x2 - x1) * (y2 - y1) + (right - left) * (bottom - top)).sub_(shared)
    return shared.div_(union.clamp_(min=1e-9))


def _as_good_as_best(iou: Tensor, threshold: float) -> Tensor:
    """`iou` (B, M, P) where a box overlaps no prior by `threshold` and this one as much as any; else 0.

    A box inside a prior overlaps it by the ratio of their areas, wherever it lies: rounding must not choose among equals.
    """
    most = iou.amax(2, keepdim=True)
    return iou.masked_fill((most >= threshold) | (iou < (1 - 1e-3) * most), 0)


def force_priors(iou: Tensor) -> Tensor:
    """Which box has a prior by force: one for each box, so that no box is left unlearned.

    Every box asks for the prior that it overlaps most (the first of equals). Where several ask for one, the box with the
    largest IoU has it (the first of equals), and the others ask again among the priors that are free. There are as many
    rounds as boxes quarrel for one prior, a single one where none do.

    Args:
        iou: float32 (B, M, P); 0 where a prior may not be had.

    Returns:
        int64 (B, P): index of the box, -1 for a prior that none has by force.
    """
    batch, count, priors = iou.shape
    rows = iou.flatten(0, 1)
    nobody = len(rows)
    owner = torch.full((batch * priors,), nobody, dtype=torch.int64, device=iou.device)
    asking = torch.arange(len(rows), device=iou.device)
    while len(asking):
        image = asking // count
        score, prior = rows[asking].masked_fill_(owner.view(batch, priors)[image] < nobody, 0).max(1)
        claim = image * priors + prior
        best = score.new_zeros(batch * priors).scatter_reduce(0, claim, score, "amax")
        strongest = (score > 0) & (score == best[claim])
        owner = owner.scatter_reduce(0, claim, asking.masked_fill(~strongest, nobody), "amin")
        asking = asking[(score > 0) & (owner[claim] != asking)]  # a GPU waits here alone: it doesn't know how many
    return torch.where(owner < nobody, owner % count, -1).view(batch, priors)
