"""SimOTA label assignment (YOLOX, arXiv 2107.08430, section 2.4), over the whole batch at once.

No Python loop over images or boxes, and no boxes x anchors x classes tensor: the class cost against a one-hot target is
sum_c -log(1 - p_c), the same for all boxes, plus a term of the box's own class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CENTRE_RADIUS = 1.5
"""An anchor is a candidate for a box when it is nearer than this to the box's centre, in its own strides."""
CANDIDATES = 10
"""How many of the best IoUs are summed for the number of anchors that a box gets."""
OUTSIDE_COST = 1e6
"""Added to the cost of anchors that aren't candidates of this very box."""


@dataclass(frozen=True)
class Assignment:
    """The P positive anchors of a batch, each with its box.

    Attributes:
        image, anchor, box: int64 (P,): indices into batch, anchors, and the padded boxes of the image.
        iou: float32 (P,): of the anchor's prediction with its box.
    """

    image: Tensor
    anchor: Tensor
    box: Tensor
    iou: Tensor


@torch.no_grad()
def assign(
    boxes: Tensor,
    class_logits: Tensor,
    objectness_logits: Tensor,
    centres: Tensor,
    strides: Tensor,
    gt_boxes: Tensor,
    gt_labels: Tensor,
) -> Assignment:
    """Choose the anchors that learn each box.

    Args:
        boxes: float32 (B, A, 4), decoded predictions, cxcywh pixels.
        class_logits: (B, A, C); objectness_logits: (B, A, 1).
        centres: float32 (A, 2), anchor points (x, y), pixels; strides: float32 (A,).
        gt_boxes: float32 (B, M, 4), cxcywh pixels; gt_labels: int64 (B, M), -1 for padding.

    A box without a candidate anchor (its centre outside the image) gets none; the reference forces it onto an anchor of
    another box. Of equal costs the first anchor's, or the first box's, counts as the least.
    """
    valid = gt_labels >= 0
    radius = CENTRE_RADIUS * strides
    near_x, near_y = ((centres[:, axis] - gt_boxes[:, :, None, axis]).abs() < radius for axis in (0, 1))
    near = near_x & near_y & valid[..., None]  # B, M, A
    candidate = near.any(1)
    most = int(candidate.sum(1).max()) if candidate.numel() else 0
    if most == 0:
        none = gt_labels.new_zeros(0)
        return Assignment(none, none, none, boxes.new_zeros(0))
    # Candidates first, in anchor order, padded to the image with most of them.
    index = candidate.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    is_candidate = candidate.gather(1, index)
    near = near.gather(2, index[:, None].expand(-1, near.shape[1], -1))
    pair = valid[..., None] & is_candidate[:, None]
    iou = pairwise_iou_cxcywh(gt_boxes, _pick(boxes, index)).masked_fill(~pair, 0)
    scores = (_pick(class_logits, index).float().sigmoid() * _pick(objectness_logits, index).float().sigmoid()).sqrt()
    cost = _class_cost(scores, gt_labels) - 3.0 * (iou + 1e-8).log() + OUTSIDE_COST * ~near
    cost = cost.masked_fill(~pair, torch.inf)
    chosen = _cheapest(cost, iou, near)
    chosen = _one_box_each(chosen, cost)
    image, column = chosen.any(1).nonzero(as_tuple=True)
    box = chosen.byte().argmax(1)[image, column]
    return Assignment(image, index[image, column], box, iou[image, box, column])


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """(B, A, n) and (B, K) to (B, K, n): the rows of the candidates."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def _class_cost(scores: Tensor, gt_labels: Tensor) -> Tensor:
    """Binary cross entropy of (B, K, C) scores against the one-hot class of each box, summed over classes: (B, M, K)."""
    no = -torch.log1p(-scores).clamp(min=-100)
    yes = -scores.log().clamp(min=-100)
    own = gt_labels.clamp(min=0)[:, None].expand(-1, scores.shape[1], -1)
    return (no.sum(-1, keepdim=True) + (yes - no).gather(2, own)).transpose(1, 2)


def _cheapest(cost: Tensor, iou: Tensor, near: Tensor) -> Tensor:
    """bool (B, M, K): the k cheapest anchors of each box, k = the sum of its best IoUs, at least 1."""
    most = min(CANDIDATES, cost.shape[2])
    k = iou.topk(most, 2).values.sum(2, keepdim=True).long().clamp(1, most)
    dearest = cost.topk(most, 2, largest=False).values.gather(2, k - 1)
    # topk may take any of equal costs: what is left of k goes to the first ones.
    cheaper, equal = cost < dearest, cost == dearest
    chosen = cheaper | (equal & (equal.cumsum(2) <= k - cheaper.sum(2, keepdim=True)))
    return chosen & cost.isfinite() & near.any(2, keepdim=True)


def _one_box_each(chosen: Tensor, cost: Tensor) -> Tensor:
    """An anchor that several boxes chose learns the one that costs it least."""
    contested = (chosen.sum(1) > 1)[:, None]
    cheapest = F.one_hot(cost.argmin(1), cost.shape[1]).transpose(1, 2).bool()
    return torch.where(contested, cheapest, chosen)


def pairwise_iou_cxcywh(one: Tensor, other: Tensor) -> Tensor:
    """(B, M, 4) and (B, K, 4), cxcywh, to IoU (B, M, K); 0 where the union is empty."""

    def overlap_along(axis: int) -> Tensor:
        (centre, size), (other_centre, other_size) = ((b[..., axis], b[..., axis + 2] / 2) for b in (one, other))
        low = torch.maximum((centre - size)[:, :, None], (other_centre - other_size)[:, None])
        high = torch.minimum((centre + size)[:, :, None], (other_centre + other_size)[:, None])
        return (high - low).clamp(min=0)

    overlap = overlap_along(0) * overlap_along(1)
    union = one[..., 2:].prod(-1)[:, :, None] + other[..., 2:].prod(-1)[:, None] - overlap
    return torch.where(union > 0, overlap / union, 0)
