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
        encoded: float32 (B, P, 4), finite: the offsets wanted where `labels > 0`.

    Returns:
        Cross entropy over the positives and the hardest negatives; smooth L1 over the positives. Both are 0, with a
        gradient of 0, when there is no positive.
    """
    positive = labels > 0
    scores = F.log_softmax(logits, -1)
    # What isn't chosen counts for nothing; to pick out the others, a GPU would have to tell how many there are.
    left_out = ~(positive | hardest_negatives(-scores[..., 0].detach(), positive))
    classification = F.nll_loss(scores.flatten(0, 1), labels.masked_fill(left_out, -100).flatten(), reduction="sum")
    offsets = torch.where(positive[..., None], offsets, encoded)
    return classification, F.smooth_l1_loss(offsets, encoded, reduction="sum")


def hardest_negatives(background_loss: Tensor, positive: Tensor) -> Tensor:
    """bool (B, P): in each image the three negatives for each positive that look least like background.

    Args:
        background_loss: float32 (B, P), cross entropy of each prior if it were background.
        positive: bool (B, P); never chosen.
    """
    loss = background_loss.masked_fill(positive, -torch.inf)
    rank = loss.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (rank < NEGATIVES_PER_POSITIVE * positive.sum(1, keepdim=True)) & ~positive
