"""SSD's training recipe (arXiv 1512.02325, section 2.2): photometric distortion, expand, IoU crop, mirror, resize."""

from __future__ import annotations

import cv2
import numpy as np

from stdet.data.preprocess import Geometry, fitted, resample
from stdet.interfaces.family import Options
from stdet.interfaces.transform import Transform, TransformContext
from stdet.structures import Preprocess, Sample
from stdet_datasets.geometry import clip_boxes, flip_boxes, reduce_first

CROP_MIN_IOUS = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
"""None leaves the image whole; 0.0 takes any crop that keeps an object."""
CROP_TRIES = 50
EXPAND_MAX = 4.0


class SsdRecipe(Transform):
    """Expansion and crop are drawn as rectangles first; only the part of the image that stays is resampled, straight to
    its place in the input, and distorted there. So nothing grows to the 16-fold area of an expanded photograph.

    Fill is the preprocessing's pad value.
    """

    def __init__(self, options: Options | None = None) -> None:
        """The recipe has no options of its own."""

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        rng, preprocess = context.rng, context.preprocess
        canvas, offset = (sample.height, sample.width), np.zeros(2, np.int64)
        if rng.random() < 0.5:
            canvas, offset = expansion(canvas, rng)
        crop, kept = iou_crop(canvas, sample.boxes + np.tile(offset, 2), rng)
        place = crop - np.tile(offset, 2)  # in the image's own pixels; parts outside it are fill
        image, geometry = render(sample.image[..., :3], place, preprocess, rng)
        # Objects are cut off at the crop first: beside a letterboxed crop there is fill, not the rest of the image.
        boxes = np.clip(sample.boxes[kept], np.tile(place[:2], 2), np.tile(place[2:], 2))
        boxes, labels = clip_boxes(geometry.to_input(boxes), sample.labels[kept], preprocess.size)
        if rng.random() < 0.5:
            image, boxes = np.ascontiguousarray(image[:, ::-1]), flip_boxes(boxes, image.shape[1])
        return Sample(image, boxes, labels)


def expansion(size: tuple[int, int], rng: np.random.Generator) -> tuple[tuple[int, int], np.ndarray]:
    """(height, width) of a canvas of one to four times the sides of `size`, and where (x, y) the image lies on it."""
    height, width = size
    ratio = rng.uniform(1, EXPAND_MAX)
    canvas = int(height * ratio), int(width * ratio)
    return canvas, rng.integers(0, (canvas[1] - width, canvas[0] - height), endpoint=True)


def iou_crop(size: tuple[int, int], boxes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random crop that overlaps *every* kept object by a drawn minimum IoU; the reference never enforced it.

    Objects stay when their centre is inside. Without objects, nothing is cut.

    Returns:
        The crop, int (4,), xyxy, and bool (N,), which of `boxes` stay.
    """
    height, width = size
    whole = np.array([0, 0, width, height]), np.ones(len(boxes), bool)
    while len(boxes):
        wanted = CROP_MIN_IOUS[int(rng.integers(len(CROP_MIN_IOUS)))]
        if wanted is None:
            return whole
        for _ in range(CROP_TRIES):
            crop_w, crop_h = int(rng.uniform(0.3, 1) * width), int(rng.uniform(0.3, 1) * height)
            if crop_w < 1 or crop_h < 1 or not 0.5 <= crop_h / crop_w <= 2:
                continue
            left, top = int(rng.integers(width - crop_w + 1)), int(rng.integers(height - crop_h + 1))
            crop = np.array([left, top, left + crop_w, top + crop_h])
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            inside = ((centres > crop[:2]) & (centres < crop[2:])).all(1)
            if inside.any() and _iou_with(crop, boxes[inside]).min() >= wanted:
                return crop, inside
    return whole


def render(
    image: np.ndarray, crop: np.ndarray, preprocess: Preprocess, rng: np.random.Generator
) -> tuple[np.ndarray, Geometry]:
    """uint8 (height, width, 3) of the network's input: the crop resized, with the image's colours distorted.

    Args:
        crop: int (4,), xyxy in pixels of `image`; it may reach beyond it, but must meet it.

    Returns:
        The input, and the map from `image` to it.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = np.clip(crop, 0, [width, height, width, height]).tolist()
    _, wished = fitted((crop[3] - crop[1], crop[2] - crop[0]), preprocess)
    left, top, right, bottom = np.rint(wished.to_input(np.array([[x1, y1, x2, y2]]) - np.tile(crop[:2], 2))[0]).astype(
        int
    )
    out_h, out_w = max(1, bottom - top), max(1, right - left)  # whole pixels, so the map changes by a trifle
    scale_y, scale_x = out_h / (y2 - y1), out_w / (x2 - x1)
    part = reduce_first(image[y1:y2, x1:x2], scale_x, scale_y)
    part = distort(resample(part, out_h, out_w, preprocess.interpolation), rng)
    canvas = np.full((*preprocess.size, 3), preprocess.pad_value, np.uint8)
    above, beside = max(0, -top), max(0, -left)  # of a part that is larger than the input
    inner = part[above : max(0, preprocess.height - top), beside : max(0, preprocess.width - left)]
    canvas[top + above : top + above + inner.shape[0], left + beside : left + beside + inner.shape[1]] = inner
    return canvas, Geometry(scale_y, scale_x, top - y1 * scale_y, left - x1 * scale_x)


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
