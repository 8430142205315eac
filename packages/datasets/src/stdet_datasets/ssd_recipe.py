"""SSD's training recipe (arXiv 1512.02325, section 2.2): photometric distortion, expand, IoU crop, mirror, resize."""

from __future__ import annotations

import cv2
import numpy as np

from stdet.data.preprocess import resize
from stdet.interfaces.family import Options
from stdet.interfaces.transform import Transform, TransformContext
from stdet.structures import Sample
from stdet_datasets.geometry import clip_boxes, flip_boxes

CROP_MIN_IOUS = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
"""None leaves the image whole; 0.0 takes any crop that keeps an object."""
CROP_TRIES = 50
EXPAND_MAX = 4.0


class SsdRecipe(Transform):
    """The crop comes before the photometric part, on fewer pixels; the order doesn't change what can come out, but for
    the fill colour of `expand`, which is the preprocessing's mean grey."""

    def __init__(self, options: Options | None = None) -> None:
        """The recipe has no options of its own."""

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        rng = context.rng
        image, boxes, labels = sample.image[..., :3], sample.boxes, sample.labels
        if rng.random() < 0.5:
            image, boxes = expand(image, boxes, context.preprocess.pad_value, rng)
        image, boxes, labels = iou_crop(image, boxes, labels, rng)
        image = distort(np.ascontiguousarray(image), rng)
        if rng.random() < 0.5:
            image, boxes = np.ascontiguousarray(image[:, ::-1]), flip_boxes(boxes, image.shape[1])
        image, geometry = resize(image, context.preprocess)
        return Sample(image, *clip_boxes(geometry.to_input(boxes), labels, context.preprocess.size))


def expand(image: np.ndarray, boxes: np.ndarray, fill: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The image somewhere on a canvas up to four times its sides, filled with grey."""
    height, width = image.shape[:2]
    ratio = rng.uniform(1, EXPAND_MAX)
    left, top = int(rng.uniform(0, width * ratio - width)), int(rng.uniform(0, height * ratio - height))
    canvas = np.full((int(height * ratio), int(width * ratio), 3), fill, np.uint8)
    canvas[top : top + height, left : left + width] = image[: canvas.shape[0] - top, : canvas.shape[1] - left]
    return canvas, boxes + np.array([left, top, left, top], np.float32)


def iou_crop(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random crop that overlaps *every* kept object by a drawn minimum IoU; the reference never enforced it.

    Objects stay when their centre is inside, and are clipped. Images without objects come back whole.
    """
    height, width = image.shape[:2]
    while len(boxes):
        wanted = CROP_MIN_IOUS[int(rng.integers(len(CROP_MIN_IOUS)))]
        if wanted is None:
            return image, boxes, labels
        for _ in range(CROP_TRIES):
            crop_w, crop_h = int(rng.uniform(0.3, 1) * width), int(rng.uniform(0.3, 1) * height)
            if crop_w < 1 or crop_h < 1 or not 0.5 <= crop_h / crop_w <= 2:
                continue
            left, top = int(rng.integers(width - crop_w + 1)), int(rng.integers(height - crop_h + 1))
            crop = np.array([left, top, left + crop_w, top + crop_h], np.float32)
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            inside = ((centres > crop[:2]) & (centres < crop[2:])).all(1)
            if not inside.any() or _iou_with(crop, boxes[inside]).min() < wanted:
                continue
            kept = np.clip(boxes[inside], [*crop[:2], *crop[:2]], [*crop[2:], *crop[2:]]) - [left, top, left, top]
            return image[top : top + crop_h, left : left + crop_w], kept.astype(np.float32), labels[inside]
    return image, boxes, labels


def _iou_with(crop: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    low, high = np.maximum(crop[:2], boxes[:, :2]), np.minimum(crop[2:], boxes[:, 2:])
    overlap = np.clip(high - low, 0, None).prod(1)
    return overlap / ((crop[2:] - crop[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - overlap)


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation, hue and channel order, each half of the time, on uint8 (H, W, 3) RGB."""
    out = image.astype(np.float32)
    if rng.random() < 0.5:
        out += rng.uniform(-32, 32)
    contrast, contrast_first = rng.random() < 0.5, rng.random() < 0.5
    factor = rng.uniform(0.5, 1.5)
    if contrast and contrast_first:
        out *= factor
    hsv = cv2.cvtColor(np.clip(out, 0, 255) / 255, cv2.COLOR_RGB2HSV)  # H 0..360, S and V 0..1
    if rng.random() < 0.5:
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.5, 1.5), 0, 1)
    if rng.random() < 0.5:
        hsv[..., 0] = (hsv[..., 0] + rng.uniform(-18, 18)) % 360
    out = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
    if contrast and not contrast_first:
        out *= factor
    if rng.random() < 0.5:
        out = out[..., rng.permutation(3)]
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)
