"""YOLOX's losses (arXiv 2107.08430) over the positives that SimOTA chose."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BOX_WEIGHT = 5.0


def iou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - IoU^2 of matching rows of (P, 4) cxcywh boxes: (P,)."""
    low = torch.maximum(boxes[:, :2] - boxes[:, 2:] / 2, targets[:, :2] - targets[:, 2:] / 2)
    high = torch.minimum(boxes[:, :2] + boxes[:, 2:] / 2, targets[:, :2] + targets[:, 2:] / 2)
    overlap = (high - low).clamp(min=0).prod(1)
    union = boxes[:, 2:].prod(1) + targets[:, 2:].prod(1) - overlap
    return 1 - (overlap / (union + 1e-16)) ** 2


def l1_targets(targets: Tensor, cells: Tensor, strides: Tensor) -> Tensor:
    """Raw regression values that decode to (P, 4) cxcywh `targets` at grid `cells` (P, 2) of `strides` (P,)."""
    strides = strides[:, None]
    return torch.cat((targets[:, :2] / strides - cells, (targets[:, 2:] / strides + 1e-8).log()), 1)


def class_loss(logits: Tensor, labels: Tensor, iou: Tensor) -> Tensor:
    """Summed binary cross entropy of (P, C) logits against one-hot labels scaled by the matched IoU."""
    target = F.one_hot(labels, logits.shape[1]).to(logits.dtype) * iou[:, None]
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
