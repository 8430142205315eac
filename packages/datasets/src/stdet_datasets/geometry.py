"""Affine maps of images and their boxes."""

from __future__ import annotations

import math

import cv2
import numpy as np

from stdet.data.preprocess import reduce_first
from stdet.structures import Preprocess, Sample

MIN_BOX_PX = 1.0
"""Boxes whose smaller side is not above this after a transform are dropped."""
WARP_FLAGS = {"nearest": cv2.INTER_NEAREST, "bicubic": cv2.INTER_CUBIC}
"""Kernels that a warp offers; it takes bilinear for the others, which are defined for upright resizing only."""


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
    matrix = np.eye(3)
    matrix[:2, 2] = x, y
    return matrix


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """float32 (N, 4) xyxy: the upright hull of each box's four mapped corners."""
    linear = matrix[:2, :2].T
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 @ linear + matrix[:2, 2]
    halves = (boxes[:, 2:] - boxes[:, :2]) / 2 @ np.abs(linear)
    return np.concatenate([centres - halves, centres + halves], 1).astype(np.float32)


def clip_boxes(boxes: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes clipped to an image of `size` (h, w), and their labels; what is left of them must be above `MIN_BOX_PX`."""
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
    region: tuple[float, float, float, float] | None = None,
    interpolation: str = "bilinear",
) -> None:
    """Warp a sample's image by `matrix` straight into `canvas`, leaving the canvas as it is elsewhere.

    The map is in pixel-edge coordinates. A side that shrinks to less than half is averaged down first: one warp alone
    would alias. An alpha channel that the canvas hasn't is left out; one that the image hasn't is opaque.

    Args:
        canvas: uint8 (H, W, 3 or 4).
        region: part of the image to paste, (x1, y1, x2, y2) in its pixels; all of it when None.
        interpolation: `nearest`, `bicubic`, else bilinear.
    """
    scale_x, scale_y = np.hypot(matrix[0, :2], matrix[1, :2]).tolist()
    image, factor = tile.reduced(max(scale_x, scale_y))
    matrix = matrix @ np.diag([factor, factor, 1.0])
    if region is not None:
        x1, y1, x2, y2 = (int(v / factor) for v in region)
        image, matrix = image[y1:y2, x1:x2], matrix @ shift(x1, y1)
    if 0 in image.shape[:2]:
        return
    height, width = image.shape[:2]
    image = reduce_first(image, scale_x * factor, scale_y * factor)
    matrix = matrix @ np.diag([width / image.shape[1], height / image.shape[0], 1.0])
    if image.shape[2] != canvas.shape[2]:
        image = image[..., :3] if canvas.shape[2] == 3 else cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    # Only the part of the canvas that the image reaches is warped.
    hull = warp_boxes(np.array([[0, 0, image.shape[1], image.shape[0]]], np.float64), matrix)[0].tolist()
    left, top = (max(0, math.floor(v)) for v in hull[:2])
    right, bottom = (min(side, math.ceil(v)) for side, v in zip(canvas.shape[1::-1], hull[2:], strict=True))
    if left >= right or top >= bottom:
        return
    # OpenCV maps pixel centres; ours are half a pixel inside the edges.
    centred = shift(-0.5 - left, -0.5 - top) @ matrix @ shift(0.5, 0.5)
    cv2.warpAffine(
        np.ascontiguousarray(image),
        centred[:2],
        (right - left, bottom - top),
        dst=canvas[top:bottom, left:right],
        flags=WARP_FLAGS.get(interpolation, cv2.INTER_LINEAR),
        borderMode=cv2.BORDER_TRANSPARENT,
    )


def out_of_view(size: tuple[float, float], matrix: np.ndarray, canvas: tuple[int, int]) -> bool:
    """Whether an image of `size` (h, w) mapped by `matrix` misses a canvas of (h, w) pixels altogether."""
    x1, y1, x2, y2 = warp_boxes(np.array([[0, 0, size[1], size[0]]], np.float32), matrix)[0]
    return bool(x2 <= 0 or y2 <= 0 or x1 >= canvas[1] or y1 >= canvas[0])


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes of the left-right mirrored image."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1).astype(np.float32)
