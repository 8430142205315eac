"""Affine maps of images and their boxes."""

from __future__ import annotations

import math

import cv2
import numpy as np

MIN_BOX_PX = 1.0
"""Boxes whose smaller side is not above this after a transform are dropped."""


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
    x1, y1, x2, y2 = boxes.T
    corners = np.stack([np.stack([x1, y1]), np.stack([x2, y1]), np.stack([x2, y2]), np.stack([x1, y2])])  # 4, 2, N
    mapped = np.einsum("ij,kjn->kin", matrix[:2, :2], corners) + matrix[:2, 2][None, :, None]
    return np.concatenate([mapped.min(0), mapped.max(0)]).T.astype(np.float32)


def clip_boxes(boxes: np.ndarray, labels: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes clipped to an image of `size` (h, w), and their labels; what is left of them must be above `MIN_BOX_PX`."""
    height, width = size
    clipped = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    kept = (clipped[:, 2:] - clipped[:, :2]).min(1, initial=np.inf) > MIN_BOX_PX
    return clipped[kept], labels[kept]


def paste(image: np.ndarray, canvas: np.ndarray, matrix: np.ndarray, region: np.ndarray | None = None) -> None:
    """Warp uint8 (H, W, C) `image` by `matrix` straight into `canvas`, leaving the canvas as it is elsewhere.

    The map is in pixel-edge coordinates. An image that shrinks to less than half is averaged down first: one bilinear
    warp would alias.

    Args:
        region: part of the image to paste, (x1, y1, x2, y2) in its pixels; all of it when None.
    """
    if region is not None:
        x1, y1, x2, y2 = (int(v) for v in region)
        image, matrix = image[y1:y2, x1:x2], matrix @ shift(x1, y1)
    if 0 in image.shape[:2]:
        return
    factor = math.sqrt(abs(float(np.linalg.det(matrix[:2, :2]))))
    if factor < 0.5:
        height, width = (max(1, round(side * 2 * factor)) for side in image.shape[:2])
        matrix = matrix @ np.diag([image.shape[1] / width, image.shape[0] / height, 1.0])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    # OpenCV maps pixel centres; ours are half a pixel inside the edges.
    centred = shift(-0.5, -0.5) @ matrix @ shift(0.5, 0.5)
    cv2.warpAffine(
        np.ascontiguousarray(image),
        centred[:2],
        (canvas.shape[1], canvas.shape[0]),
        dst=canvas,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )


def out_of_view(size: tuple[float, float], matrix: np.ndarray, canvas: tuple[int, int]) -> bool:
    """Whether an image of `size` (h, w) mapped by `matrix` misses a canvas of (h, w) pixels altogether."""
    x1, y1, x2, y2 = warp_boxes(np.array([[0, 0, size[1], size[0]]], np.float32), matrix)[0]
    return bool(x2 <= 0 or y2 <= 0 or x1 >= canvas[1] or y1 >= canvas[0])


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes of the left-right mirrored image."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1).astype(np.float32)
