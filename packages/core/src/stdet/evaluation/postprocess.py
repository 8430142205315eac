"""From decoded candidates to detections: score threshold, NMS within a class. The same for every model."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stdet.data.preprocess import Geometry, normalize, prepare
from stdet.evaluation.predictors import Predictor
from stdet.interfaces.detector import Candidates
from stdet.structures import Detections, Preprocess, Thresholds


def select(candidates: Candidates, thresholds: Thresholds, *, max_per_class: int | None = None) -> list[Detections]:
    """The detections of each image, best first, in pixels of the network's input.

    Boxes suppress each other within a class; whether a box may be a detection of several classes is the candidates'
    `multi_label`. A box that isn't finite (an exponential that overflowed) is no detection.

    Args:
        max_per_class: at most so many an image and class; None for no limit.
    """
    most = thresholds.max_detections
    limit = min((n for n in (most, max_per_class) if n is not None), default=None)
    found = []
    for boxes, scores in zip(candidates.boxes.float(), candidates.scores.float(), strict=True):
        anchors, labels = _confident(boxes, scores, thresholds.confidence, candidates.multi_label)
        boxes, scores = boxes[anchors], scores[anchors, labels]
        kept = _nms_within_classes(boxes, scores, labels, thresholds.nms_iou, limit)[:most]
        found.append(Detections(boxes[kept].cpu().numpy(), scores[kept].cpu().numpy(), labels[kept].cpu().numpy()))
    return found


def _confident(boxes: Tensor, scores: Tensor, confidence: float, multi_label: bool) -> tuple[Tensor, Tensor]:
    """Rows and classes of the finite boxes that score enough."""
    if multi_label:
        enough = scores >= confidence
    else:
        best, labels = scores.max(-1, keepdim=True)
        enough = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, labels, best >= confidence)
    anchors, classes = (enough & boxes.isfinite().all(-1, keepdim=True)).nonzero(as_tuple=True)
    return anchors, classes


def _nms_within_classes(boxes: Tensor, scores: Tensor, labels: Tensor, nms_iou: float, limit: int | None) -> Tensor:
    """Indices of the boxes that remain, at most `limit` a class, best first, equal scores in their old order.

    Class by class: torchvision's `batched_nms` moves small sets apart by class instead, which rounds the boxes, so that
    overlaps near the threshold are decided wrongly.
    """
    order = scores.argsort(descending=True, stable=True)
    by_class = order[labels[order].argsort(stable=True)]
    groups = by_class.split(labels.bincount(minlength=1).tolist())
    kept = torch.zeros_like(labels, dtype=torch.bool)
    for own in groups:
        kept[own[_nms(boxes[own], scores[own], nms_iou, limit)]] = True
    return order[kept[order]]


def _nms(boxes: Tensor, scores: Tensor, nms_iou: float, limit: int | None) -> Tensor:
    """The first `limit` indices that NMS keeps of boxes that are sorted, best first.

    Weaker boxes never suppress stronger ones, so the best few hundred decide alone as long as `limit` of them remain:
    on thousands of priors that all score a little, most of the time.
    """
    nms = _suppression()
    window = len(boxes) if limit is None else 4 * limit
    while True:
        kept = nms(boxes[:window], scores[:window], nms_iou)[:limit]
        if len(kept) == limit or window >= len(boxes):
            return kept
        window *= 4


@functools.cache
def _suppression() -> Callable[[Tensor, Tensor, float], Tensor]:
    """torchvision's operator without its package, which brings torch's compiler: 160 MiB and more than 2 s."""
    package = importlib.util.find_spec("torchvision")
    assert package is not None  # a dependency
    assert package.origin is not None
    libraries = [*Path(package.origin).parent.glob("_C*.so")]  # _C.so, later _C_stable.so
    for library in libraries:
        torch.ops.load_library(library)
    if not libraries:  # Windows, and builds that keep it elsewhere
        importlib.import_module("torchvision")
    operator: Callable[[Tensor, Tensor, float], Tensor] = torch.ops.torchvision.nms
    return operator


def detect(predictor: Predictor, image: np.ndarray, preprocess: Preprocess, thresholds: Thresholds) -> Detections:
    """Detections in one uint8 (H, W, 3) RGB image, clipped to it, in its pixels."""
    pixels, geometry = prepare(image, preprocess)
    candidates = predictor(normalize(torch.from_numpy(pixels)[None], preprocess))
    return in_image(select(candidates, thresholds)[0], geometry, image)


def in_image(found: Detections, geometry: Geometry, image: np.ndarray) -> Detections:
    """Detections in pixels of the network's input as such in the image (H, W, C) that it was made of, clipped to it."""
    height, width = image.shape[:2]
    boxes = geometry.to_image(found.boxes)
    return Detections(np.clip(boxes, 0, [width, height, width, height]).astype(np.float32), found.scores, found.labels)
