"""From decoded candidates to detections: score threshold, NMS within a class. The same for every model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from stdet.data.preprocess import normalize, prepare
from stdet.evaluation.predictors import Predictor
from stdet.interfaces.detector import Candidates
from stdet.structures import Detections, Preprocess


def select(
    candidates: Candidates,
    confidence_thresh: float,
    nms_thresh: float,
    max_detections: int | None = None,
    *,
    multi_label: bool = False,
) -> list[Detections]:
    """The detections of each image, best first, in pixels of the network's input.

    Boxes suppress each other within a class. A box that isn't finite (an exponential that overflowed) is no detection.

    Args:
        confidence_thresh: least score, 0..1, inclusive.
        nms_thresh: IoU above which the weaker of two boxes of a class is dropped, 0..1.
        max_detections: at most so many an image, of all classes together; None for no limit.
        multi_label: an anchor may be several detections, one for each class that scores enough, as in SSD; else it
            speaks for its best class only, as in YOLOX.
    """
    return [
        _select_one(boxes.float(), scores.float(), confidence_thresh, nms_thresh, max_detections, multi_label)
        for boxes, scores in zip(candidates.boxes, candidates.scores, strict=True)
    ]


def _select_one(
    boxes: Tensor,
    scores: Tensor,
    confidence_thresh: float,
    nms_thresh: float,
    max_detections: int | None,
    multi_label: bool,
) -> Detections:
    if multi_label:
        enough = scores >= confidence_thresh
    else:
        best, labels = scores.max(-1, keepdim=True)
        enough = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, labels, best >= confidence_thresh)
    anchors, labels = (enough & boxes.isfinite().all(-1, keepdim=True)).nonzero(as_tuple=True)
    boxes, scores = boxes[anchors], scores[anchors, labels]
    kept = _nms_within_classes(boxes, scores, labels, nms_thresh)[:max_detections]
    return Detections(boxes[kept].cpu().numpy(), scores[kept].cpu().numpy(), labels[kept].cpu().numpy())


def _nms_within_classes(boxes: Tensor, scores: Tensor, labels: Tensor, nms_thresh: float) -> Tensor:
    """Indices of the boxes that remain, best first, equal scores in their old order.

    Class by class: torchvision's `batched_nms` moves small sets apart by class instead, which rounds the boxes, so that
    overlaps near the threshold are decided wrongly.
    """
    kept = torch.zeros_like(labels, dtype=torch.bool)
    for label in labels.unique():
        own = (labels == label).nonzero().squeeze(1)
        kept[own[nms(boxes[own], scores[own], nms_thresh)]] = True
    remaining = kept.nonzero().squeeze(1)
    return remaining[scores[remaining].argsort(descending=True, stable=True)]


def detect(
    predictor: Predictor,
    image: np.ndarray,
    preprocess: Preprocess,
    confidence_thresh: float,
    nms_thresh: float,
    max_detections: int | None = None,
    *,
    multi_label: bool = False,
) -> Detections:
    """Detections in one uint8 (H, W, 3) RGB image, clipped to it, in its pixels; the thresholds are those of `select`."""
    pixels, geometry = prepare(image, preprocess)
    candidates = predictor(normalize(torch.from_numpy(pixels)[None], preprocess))
    found = select(candidates, confidence_thresh, nms_thresh, max_detections, multi_label=multi_label)[0]
    height, width = image.shape[:2]
    boxes = geometry.to_image(found.boxes)
    return Detections(np.clip(boxes, 0, [width, height, width, height]).astype(np.float32), found.scores, found.labels)
