"""A baseline for the SSD recipe: what pytorch-ssd's TrainAugmentation does, written anew from a description of it.

pytorch-ssd is on no package registry, so this isn't its code. It does the same work in the same order on the same
arrays: float32 photometric distortion of the full-size photograph, expansion onto a canvas filled with the mean, a
random crop, mirror, relative coordinates, bilinear resize, mean and deviation, channels first.
Its crop rejects by IoU as written in the paper's code, that is never (the reference joins its two tests with `and`).
"""

from __future__ import annotations

import cv2
import numpy as np

MEAN, STD = 127.0, 128.0
CHOICES = (None, 0.1, 0.3, 0.7, 0.9, float("-inf"))
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def augment(path: str, boxes: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """One training sample from a file: float32 (3, size, size). Boxes and labels go along and are dropped here."""
    image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB).astype(np.float32)
    image = _photometric(image, rng)
    if rng.random() < 0.5:
        image, boxes = _expand(image, boxes, rng)
    image, boxes, labels = _crop(image, boxes, labels, rng)
    if rng.random() < 0.5:
        image = image[:, ::-1]
        boxes = np.stack([image.shape[1] - boxes[:, 2], boxes[:, 1], image.shape[1] - boxes[:, 0], boxes[:, 3]], 1)
    boxes = boxes / [image.shape[1], image.shape[0], image.shape[1], image.shape[0]]
    image = (cv2.resize(image, (size, size)) - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def _photometric(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.5:
        image += rng.uniform(-32, 32)
    contrast_first = rng.random() < 0.5
    if contrast_first and rng.random() < 0.5:
        image *= rng.uniform(0.5, 1.5)
    image = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    if rng.random() < 0.5:
        image[:, :, 1] *= rng.uniform(0.5, 1.5)
    if rng.random() < 0.5:
        image[:, :, 0] += rng.uniform(-18, 18)
        image[:, :, 0][image[:, :, 0] > 360] -= 360
        image[:, :, 0][image[:, :, 0] < 0] += 360
    image = cv2.cvtColor(image, cv2.COLOR_HSV2RGB)
    if not contrast_first and rng.random() < 0.5:
        image *= rng.uniform(0.5, 1.5)
    return image[:, :, ORDERS[rng.integers(6)]] if rng.random() < 0.5 else image


def _expand(image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    height, width, depth = image.shape
    ratio = rng.uniform(1, 4)
    left, top = rng.uniform(0, width * ratio - width), rng.uniform(0, height * ratio - height)
    canvas = np.zeros((int(height * ratio), int(width * ratio), depth), image.dtype)
    canvas[:] = MEAN
    canvas[int(top) : int(top) + height, int(left) : int(left) + width] = image
    return canvas, boxes + [int(left), int(top)] * 2


def _crop(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width, _ = image.shape
    while len(boxes) and CHOICES[choice := rng.integers(len(CHOICES))] is not None:
        for _ in range(50):
            w, h = rng.uniform(0.3 * width, width), rng.uniform(0.3 * height, height)
            if not 0.5 <= h / w <= 2:
                continue
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            crop = np.array([int(left), int(top), int(left + w), int(top + h)])
            low, high = np.maximum(boxes[:, :2], crop[:2]), np.minimum(boxes[:, 2:], crop[2:])
            overlap = np.clip(high - low, 0, None).prod(1)
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
            iou = overlap / (areas + (crop[2:] - crop[:2]).prod() - overlap)
            if iou.min() < CHOICES[choice] and iou.max() > float("inf"):
                continue
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            inside = ((crop[:2] < centres) & (crop[2:] > centres)).all(1)
            if not inside.any():
                continue
            kept = np.clip(boxes[inside], np.tile(crop[:2], 2), np.tile(crop[2:], 2)) - np.tile(crop[:2], 2)
            return image[crop[1] : crop[3], crop[0] : crop[2]], kept, labels[inside]
    return image, boxes, labels
