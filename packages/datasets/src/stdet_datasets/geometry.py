"""Affine maps of images and their boxes."""

from __future__ import annotations

import math

import cv2
import numpy as np

from stdet.data.preprocess import reduce_first
from stdet.structures import Preprocess, Sample

MIN_BOX_PX = 1.0
"""Boxes whose smaller side is not above this after a transform are dropped."""
WARP_FLAGS = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
"""Kernels that a warp offers; the others are defined for upright resizing only."""


def random_affine(
    rng: np.random.Generator,
    *,
    degrees: float,
    scale: tuple[float, float],
    shear: float,
    translate: float,
    size: tuple[int, int],
) -> np.ndarray:
    """A float (3, 3) map about the origin: rotation and scale, then shear, then a shift by a share of `size` (h, w)."""
    angle = math.radians(rng.uniform(-degrees, degrees))
    factor = rng.uniform(*scale)
    rotate = factor * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shears = np.tan(np.radians(rng.uniform(-shear, shear, 2)))
    linear = np.array([[1.0, shears[0]], [shears[1], 1.0]]) @ rotate
    shift = rng.uniform(-translate, translate, 2) * (size[1], size[0])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, shift
    return matrix


def shift(x: float, y: float) -> np.ndarray:
    """A float (3, 3) translation."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def stretch(x: float, y: float) -> np.ndarray:
    """A float (3, 3) scaling about the origin."""
    return np.array([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]])


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """float32 (N, 4) xyxy: the upright hull of each box's four mapped corners."""
    linear = matrix[:2, :2].T
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 @ linear + matrix[:2, 2]
    halves = (boxes[:, 2:] - boxes[:, :2]) / 2 @ np.abs(linear)
    return np.concatenate([centres - halves, centres + halves], 1).astype(np.float32)


def clip_boxes(boxes: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes clipped to an image of `size` (h, w), and their labels; what is left of them must be above `MIN_BOX_PX`.

    Args:
        boxes: floating (N, 4), xyxy, pixels.
        labels: (N,).

    Returns:
        float32 (M, 4) and (M,), the labels in their dtype; M <= N.
    """
    height, width = size
    clipped = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    kept = (clipped[:, 2:] - clipped[:, :2]).min(1, initial=np.inf) > MIN_BOX_PX
    return clipped[kept], labels[kept]


def input_scale(size: tuple[int, int], preprocess: Preprocess) -> tuple[float, float]:
    """(y, x) factors by which the resize mode brings an image of `size` (h, w) to the network's input."""
    y, x = preprocess.height / size[0], preprocess.width / size[1]
    if preprocess.resize_mode == "fit":
        return y, x
    both = min(y, x) if preprocess.resize_mode == "letterbox" else max(y, x)
    return both, both


def paste(
    tile: Sample,
    canvas: np.ndarray,
    matrix: np.ndarray,
    region: tuple[int, int, int, int] | None = None,
    interpolation: str = "bilinear",
) -> bool:
    """Warp a sample's image by `matrix` straight into `canvas`, leaving the canvas as it is elsewhere.

    The map is in pixel-edge coordinates. A side that shrinks to less than half is averaged down first: one warp alone
    would alias. An alpha channel that the canvas hasn't is left out; one that the image hasn't is opaque.

    Args:
        canvas: uint8 (H, W, 3 or 4).
        region: part of the image to paste, (x1, y1, x2, y2) in its pixels; all of it when None.
        interpolation: `nearest`, `bicubic`, else bilinear.

    Returns:
        Whether the upright hull of what was to be pasted meets the canvas. If not, the image isn't even decoded.
    """
    x1, y1, x2, y2 = region or (0, 0, tile.width, tile.height)
    (ax, bx, cx), (ay, by, cy) = matrix[0].tolist(), matrix[1].tolist()
    left = max(0, math.floor(cx + min(ax * x1, ax * x2) + min(bx * y1, bx * y2)))
    top = max(0, math.floor(cy + min(ay * x1, ay * x2) + min(by * y1, by * y2)))
    right = min(canvas.shape[1], math.ceil(cx + max(ax * x1, ax * x2) + max(bx * y1, bx * y2)))
    bottom = min(canvas.shape[0], math.ceil(cy + max(ay * x1, ay * x2) + max(by * y1, by * y2)))
    if left >= right or top >= bottom or x1 >= x2 or y1 >= y2:
        return False
    scale_x, scale_y = math.hypot(ax, bx), math.hypot(ay, by)
    image, factor = tile.reduced(max(scale_x, scale_y))
    x1, y1, x2, y2 = x1 // factor, y1 // factor, -(-x2 // factor), -(-y2 // factor)
    part = image[y1:y2, x1:x2]
    image = reduce_first(part, scale_x * factor, scale_y * factor)
    if image.shape[2] != canvas.shape[2]:
        image = image[..., :3] if canvas.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    step_x, step_y = part.shape[1] / image.shape[1] * factor, part.shape[0] / image.shape[0] * factor
    # OpenCV maps pixel centres; ours are half a pixel inside the edges.
    from_centres = shift(x1 * factor + step_x / 2, y1 * factor + step_y / 2) @ stretch(step_x, step_y)
    cv2.warpAffine(
        np.ascontiguousarray(image),
        (shift(-0.5 - left, -0.5 - top) @ matrix @ from_centres)[:2],
        (right - left, bottom - top),
        dst=canvas[top:bottom, left:right],
        flags=WARP_FLAGS.get(interpolation, cv2.INTER_LINEAR),
        borderMode=cv2.BORDER_TRANSPARENT,
    )
    return True


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """float32 (N, 4), xyxy, pixels: boxes of the mirrored image (left to right), `width` pixels wide."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1).astype(np.float32)
