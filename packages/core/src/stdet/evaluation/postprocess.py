"""From decoded candidates to detections: score threshold, one class an anchor, NMS. The same for every model."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.ops import batched_nms

from stdet.data.preprocess import normalize, prepare
from stdet.evaluation.predictors import Predictor
from stdet.interfaces.detector import Candidates
from stdet.structures import Detections, Preprocess


def select(
    candidates: Candidates, confidence_thresh: float, nms_thresh: float, max_detections: int | None = None
) -> list[Detections]:
    """The detections of each image, best first, in pixels of the network's input.

    An anchor speaks for its best class only, as in YOLOX; boxes suppress each other within a class.

    Args:
        confidence_thresh: least score, 0..1, inclusive.
        nms_thresh: IoU above which the weaker of two boxes of a class is dropped, 0..1.
        max_detections: at most so many an image, of all classes together; None for no limit.
    """
    best, labels = candidates.scores.max(-1)
    return [
        _select_one(boxes, scores, own, confidence_thresh, nms_thresh, max_detections)
        for boxes, scores, own in zip(candidates.boxes, best, labels, strict=True)
    ]


def _select_one(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
    confidence_thresh: float,
    nms_thresh: float,
    max_detections: int | None,
) -> Detections:
    enough = scores >= confidence_thresh
    boxes, scores, labels = boxes[enough].float(), scores[enough].float(), labels[enough]
    kept = batched_nms(boxes, scores, labels, nms_thresh)[:max_detections]
    return Detections(boxes[kept].cpu().numpy(), scores[kept].cpu().numpy(), labels[kept].cpu().numpy())


def detect(
    predictor: Predictor,
    image: np.ndarray,
    preprocess: Preprocess,
    confidence_thresh: float,
    nms_thresh: float,
    max_detections: int | None = None,
) -> Detections:
    """Detections in one uint8 (H, W, 3) RGB image, clipped to it, in its pixels."""
    pixels, geometry = prepare(image, preprocess)
    candidates = predictor(normalize(torch.from_numpy(pixels)[None], preprocess))
    found = select(candidates, confidence_thresh, nms_thresh, max_detections)[0]
    height, width = image.shape[:2]
    boxes = geometry.to_image(found.boxes)
    return Detections(np.clip(boxes, 0, [width, height, width, height]).astype(np.float32), found.scores, found.labels)
