"""SSD's training recipe (arXiv 1512.02325, section 2.2): photometric distortion, expand, IoU crop, mirror, resize."""

from __future__ import annotations

import cv2
import numpy as np

from stdet.data.preprocess import Geometry, downsample, fitted, with_channels
from stdet.interfaces.family import Options
from stdet.interfaces.transform import Transform, TransformContext
from stdet.structures import Preprocess, Sample
from stdet_datasets.geometry import clip_boxes, flip_boxes
from stdet_datasets.options import SsdAugmentation

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
        self._expand_prob = (options if isinstance(options, SsdAugmentation) else SsdAugmentation()).expand_prob

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        rng, preprocess = context.rng, context.preprocess
        canvas, offset = (sample.height, sample.width), np.zeros(2, np.int64)
        if rng.random() < self._expand_prob:
            canvas, offset = expansion(canvas, rng)
        crop, kept = iou_crop(canvas, sample.boxes + np.tile(offset, 2), rng)
        place = crop - np.tile(offset, 2)  # in the image's own pixels; parts outside it are fill
        image, geometry = render(sample, place, preprocess, rng)
        # Objects are cut off at the crop first: beside a letterboxed crop there is fill, not the rest of the image.
        boxes = np.clip(sample.boxes[kept], np.tile(place[:2], 2), np.tile(place[2:], 2))
        boxes, labels = clip_boxes(geometry.to_input(boxes), sample.labels[kept], preprocess.size)
        if rng.random() < 0.5:
            image, boxes = cv2.flip(image, 1), flip_boxes(boxes, image.shape[1])
        return Sample(image, boxes, labels)


def expansion(size: tuple[int, int], rng: np.random.Generator) -> tuple[tuple[int, int], np.ndarray]:
    """A canvas of one to four times the sides of `size`, (height, width), and where the image lies on it.

    Returns:
        (height, width) of the canvas; int64 (2,), x and y of the image's top left corner, in its pixels.
    """
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
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    while len(boxes):
        wanted = CROP_MIN_IOUS[int(rng.integers(len(CROP_MIN_IOUS)))]
        if wanted is None:
            return whole
        sizes = (rng.uniform(0.3, 1, (CROP_TRIES, 2)) * (width, height)).astype(int)
        corners = (rng.random((CROP_TRIES, 2)) * ((width, height) - sizes + 1)).astype(int)
        crops = np.concatenate([corners, corners + sizes], 1)
        inside = ((centres > crops[:, None, :2]) & (centres < crops[:, None, 2:])).all(2)
        least = np.where(inside, _ious(crops, boxes), np.inf).min(1)
        shaped = (sizes[:, 0] <= 2 * sizes[:, 1]) & (sizes[:, 1] <= 2 * sizes[:, 0]) & (sizes > 0).all(1)
        fit = np.flatnonzero(shaped & inside.any(1) & (least >= wanted))
        if len(fit):
            return crops[fit[0]], inside[fit[0]]
    return whole


def render(
    sample: Sample, crop: np.ndarray, preprocess: Preprocess, rng: np.random.Generator
) -> tuple[np.ndarray, Geometry]:
    """uint8 (height, width, 3 or 4) of the network's input: the crop resized, with the image's colours distorted.

    Args:
        crop: int (4,), xyxy in pixels of the sample; it may reach beyond it, but must meet it.

    Returns:
        The input, and the map from the sample's image to it.
    """
    height, width = sample.height, sample.width
    x1, y1, x2, y2 = np.clip(crop, 0, [width, height, width, height]).tolist()
    _, wished = fitted((crop[3] - crop[1], crop[2] - crop[0]), preprocess)
    left, top, right, bottom = np.rint(wished.to_input(np.array([[x1, y1, x2, y2]]) - np.tile(crop[:2], 2))[0]).astype(
        int
    )
    out_h, out_w = max(1, bottom - top), max(1, right - left)  # whole pixels, so the map changes by a trifle
    image, f = sample.reduced(max(out_h / (y2 - y1), out_w / (x2 - x1)))
    # Outwards to whole pixels of the reduced image, which is less than one of the input.
    rows, columns = slice(y1 // f, -(-y2 // f)), slice(x1 // f, -(-x2 // f))
    y1, y2, x1, x2 = rows.start * f, min(rows.stop * f, height), columns.start * f, min(columns.stop * f, width)
    scale_y, scale_x = out_h / (y2 - y1), out_w / (x2 - x1)
    part = with_channels(image[rows, columns], preprocess)
    part = distort(downsample(part, out_h, out_w, preprocess.interpolation), rng)
    canvas = np.full((*preprocess.size, part.shape[2]), preprocess.pad_value, np.uint8)
    above, beside = max(0, -top), max(0, -left)  # of a part that is larger than the input
    inner = part[above : max(0, preprocess.height - top), beside : max(0, preprocess.width - left)]
    canvas[top + above : top + above + inner.shape[0], left + beside : left + beside + inner.shape[1]] = inner
    return canvas, Geometry(scale_y, scale_x, top - y1 * scale_y, left - x1 * scale_x)


def _ious(crops: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """float (M, N)."""
    low, high = np.maximum(crops[:, None, :2], boxes[:, :2]), np.minimum(crops[:, None, 2:], boxes[:, 2:])
    overlap = np.clip(high - low, 0, None).prod(2)
    areas = (crops[:, 2:] - crops[:, :2]).prod(1)[:, None] + (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return overlap / (areas - overlap)


def distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation, hue and channel order, each half of the time, on uint8 (H, W, 3 or 4) RGB(A).

    Contrast comes before or after the others. Alpha stays.
    """
    brightness, contrast, saturation, hue = rng.uniform((-32, 0.5, 0.5, -18), (32, 1.5, 1.5, 18))
    with_brightness, with_contrast, first, with_saturation, with_hue, with_order = rng.random(6) < 0.5
    early, late = (with_contrast and first), (with_contrast and not first)
    levels = np.arange(256.0)
    rgb = np.ascontiguousarray(image[..., :3])
    if with_brightness or early:
        rgb = cv2.LUT(rgb, _table((levels + brightness * with_brightness) * (contrast if early else 1)))
    if with_saturation or with_hue:
        hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV_FULL)  # hue in 256 steps
        turned = (np.arange(256) + round(hue * with_hue * 256 / 360)) % 256
        table = np.stack([turned, levels * (saturation if with_saturation else 1), levels], -1)
        rgb = cv2.cvtColor(cv2.LUT(hsv, _table(table)[None]), cv2.COLOR_HSV2RGB_FULL)
    if late:
        rgb = cv2.LUT(rgb, _table(levels * contrast))
    if with_order:
        rgb = rgb[..., rng.permutation(3)]
    return np.dstack([rgb, image[..., 3]]) if image.shape[2] == 4 else rgb


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
