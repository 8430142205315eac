"""The multibox loss: cross entropy with hard-negative mining, and smooth L1 (SSD, arXiv 1512.02325, section 2.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NEGATIVES_PER_POSITIVE = 3


def multibox_loss(logits: Tensor, offsets: Tensor, labels: Tensor, encoded: Tensor) -> tuple[Tensor, Tensor]:
    """Summed losses of a batch; the caller divides both by the number of positives.

    Args:
        logits: float32 (B, P, 1 + classes), background first.
        offsets: float32 (B, P, 4).
        labels: int64 (B, P), 0 is background.
        encoded: float32 (positives, 4), the offsets wanted where `labels > 0`, in that order.

    Returns:
        Cross entropy over the positives and the hardest negatives; smooth L1 over the positives. Both are 0, with a
        gradient of 0, when there is no positive.
    """
    positive = labels > 0
    with torch.no_grad():
        chosen = positive | hardest_negatives(-F.log_softmax(logits, -1)[..., 0], positive)
    classification = F.cross_entropy(logits[chosen], labels[chosen], reduction="sum")
    regression = F.smooth_l1_loss(offsets[positive], encoded, reduction="sum")
    return classification, regression


def hardest_negatives(background_loss: Tensor, positive: Tensor) -> Tensor:
    """bool (B, P): in each image the three negatives for each positive that look least like background.

    Args:
        background_loss: float32 (B, P), cross entropy of each prior if it were background.
        positive: bool (B, P); never chosen.
    """
    loss = background_loss.masked_fill(positive, -torch.inf)
    rank = loss.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < NEGATIVES_PER_POSITIVE * positive.sum(1, keepdim=True)) & ~positive
