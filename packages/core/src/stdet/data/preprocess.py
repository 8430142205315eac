"""The one preprocessing: training, evaluation, calibration and prediction all go through these functions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import cv2
import numpy as np
import torch
from torch import Tensor

from stdet.structures import Preprocess, Sample

CV2_INTERPOLATION = {
    "nearest": cv2.INTER_NEAREST_EXACT,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
}
KERNEL_RADIUS = {"lanczos3": 3.0, "lanczos5": 5.0, "gaussian": 1.5, "mitchellcubic": 2.0}
"""Kernels that OpenCV hasn't, with their support in source pixels at scale 1."""


@dataclass(frozen=True)
class Geometry:
    """Where a resized image's pixels came from: input = image * scale + offset, per axis, in pixels."""

    scale_y: float
    scale_x: float
    offset_y: float = 0.0
    offset_x: float = 0.0

    def to_input(self, boxes: np.ndarray) -> np.ndarray:
        """float32 (N, 4) xyxy, image pixels to network-input pixels."""
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        offset = np.array([self.offset_x, self.offset_y] * 2, np.float32)
        return boxes.astype(np.float32) * scale + offset

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """float32 (N, 4) xyxy, network-input pixels to image pixels."""
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        offset = np.array([self.offset_x, self.offset_y] * 2, np.float32)
        return (boxes.astype(np.float32) - offset) / scale


def resize(image: np.ndarray, preprocess: Preprocess) -> tuple[np.ndarray, Geometry]:
    """uint8 (H, W, C) to uint8 (height, width, C) of the network's input, and the map between the two.

    `letterbox` truncates the scaled sizes to whole pixels and maps boxes by the one ratio r = min(H/h, W/w), as YOLOX
    does and published weights expect. Shrinking does not smooth first, except with `area`, for the same reason.
    """
    (inner_h, inner_w), geometry = fitted((image.shape[0], image.shape[1]), preprocess)
    inner = resample(image, inner_h, inner_w, preprocess.interpolation)
    if preprocess.resize_mode == "letterbox":
        canvas = np.full((*preprocess.size, image.shape[2]), preprocess.pad_value, np.uint8)
        canvas[:inner_h, :inner_w] = inner
        return canvas, geometry
    top, left = -int(geometry.offset_y), -int(geometry.offset_x)
    return inner[top : top + preprocess.height, left : left + preprocess.width], geometry


def fitted(size: tuple[int, int], preprocess: Preprocess) -> tuple[tuple[int, int], Geometry]:
    """What `resize` does with an image of `size` (h, w): the (height, width) it resamples to, and the map to the input."""
    (height, width), (out_h, out_w) = size, preprocess.size
    if preprocess.resize_mode == "fit":
        return preprocess.size, Geometry(out_h / height, out_w / width)
    if preprocess.resize_mode == "letterbox":
        ratio = min(out_h / height, out_w / width)
        return (max(1, int(height * ratio)), max(1, int(width * ratio))), Geometry(ratio, ratio)
    ratio = max(out_h / height, out_w / width)
    inner_h, inner_w = max(out_h, round(height * ratio)), max(out_w, round(width * ratio))
    top, left = (inner_h - out_h) // 2, (inner_w - out_w) // 2
    return (inner_h, inner_w), Geometry(inner_h / height, inner_w / width, -top, -left)


def resample(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """uint8 (H, W, C) to uint8 (height, width, C) with one of the eight kernels."""
    if image.shape[:2] == (height, width):
        return image
    if interpolation in CV2_INTERPOLATION:
        out = cv2.resize(image, (width, height), interpolation=CV2_INTERPOLATION[interpolation])
        return out if out.ndim == 3 else out[..., None]
    rows = _resample_matrix(image.shape[0], height, interpolation)
    columns = _resample_matrix(image.shape[1], width, interpolation)
    half = np.tensordot(rows, image.astype(np.float32), (1, 0))
    full = np.moveaxis(np.tensordot(columns, half, (1, 1)), 0, 1)
    return np.clip(np.rint(full), 0, 255).astype(np.uint8)


@lru_cache(maxsize=64)
def _resample_matrix(source: int, target: int, kernel: str) -> np.ndarray:
    """float32 (target, source): weights of a separable filter, half-pixel centres, edges renormalised, no smoothing."""
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    weights = _kernel(kernel, np.abs(centres[:, None] - np.arange(source)[None]))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _kernel(name: str, x: np.ndarray) -> np.ndarray:
    """Kernel value at distance `x` >= 0 in source pixels (Mitchell & Netravali 1988; Lanczos; Gaussian of sigma 0.5)."""
    radius = KERNEL_RADIUS[name]
    if name == "gaussian":
        value = np.exp(-(x**2) / (2 * 0.5**2))
    elif name == "mitchellcubic":
        near = (7 * x**3 - 12 * x**2 + 16 / 3) / 6
        far = (-7 / 3 * x**3 + 12 * x**2 - 20 * x + 32 / 3) / 6
        value = np.where(x < 1, near, far)
    else:
        value = np.sinc(x) * np.sinc(x / radius)
    return np.where(x < radius, value, 0.0)


def downsample(image: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    """uint8 (H, W, C) to uint8 (height, width, C) as `resample`, but a side that shrinks below half is smoothed first.

    The kernels alone would skip pixels, and alias. `area` doesn't need it.
    """
    if interpolation != "area":
        image = reduce_first(image, width / image.shape[1], height / image.shape[0])
    return resample(image, height, width, interpolation)


def reduce_first(image: np.ndarray, scale_x: float, scale_y: float) -> np.ndarray:
    """The image, uint8 (H, W, C), smoothed along each side that is to shrink to less than half.

    Down to a third, by the weights 1/4, 1/2, 1/4, which are many times as fast as averaging over parts of pixels; below
    that, it is averaged down to twice its later size.

    Args:
        scale_x, scale_y: later size over present size.
    """
    smoothed = tuple(3 if 1 / 3 <= scale < 0.5 else 1 for scale in (scale_x, scale_y))
    if 3 in smoothed:
        image = cv2.GaussianBlur(image, smoothed, 0)  # these weights, for sigma 0
    height, width = (
        max(1, round(side * 2 * scale)) if scale < 1 / 3 else side
        for side, scale in zip(image.shape[:2], (scale_y, scale_x), strict=True)
    )
    return resample(image, height, width, "area")


def resized_sample(sample: Sample, size: tuple[int, int], preprocess: Preprocess) -> Sample:
    """The sample at `size` (h, w), boxes and all, its image decoded and brought there by `downsample` on first use."""
    height, width = size
    scale_x, scale_y = width / sample.width, height / sample.height

    def image() -> np.ndarray:
        decoded, _ = sample.reduced(max(scale_x, scale_y))
        return downsample(with_channels(decoded, preprocess), height, width, preprocess.interpolation)

    boxes = sample.boxes
    if (scale_x, scale_y) != (1, 1):
        boxes = boxes * np.array([scale_x, scale_y] * 2, np.float32)
    return Sample(image, boxes, sample.labels, size)


def with_channels(image: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """uint8 (H, W, 3) RGB, or (H, W, 4) RGBA when the network sees an alpha channel; a missing one is opaque."""
    if preprocess.color_mode != "rgba":
        return image[..., :3]
    return image if image.shape[2] == 4 else np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])


def to_tensor_layout(image: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """uint8 (H, W, 3|4) RGB(A) to contiguous uint8 (C, H, W) in the network's channel order.

    Grey is ITU-R BT.601 luma; a missing alpha channel is opaque.
    """
    image = np.ascontiguousarray(with_channels(image, preprocess))
    if preprocess.color_mode == "grayscale":
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[None]
    planes = np.empty((preprocess.channels, *image.shape[:2]), np.uint8)
    order = planes[::-1] if preprocess.color_mode == "bgr" else planes
    cv2.split(image, list(order))  # writes into the planes; several times as fast as transposing
    return planes


def prepare(image: np.ndarray, preprocess: Preprocess) -> tuple[np.ndarray, Geometry]:
    """uint8 (H, W, C) RGB(A) image to uint8 (C, height, width), and the map between the two frames."""
    resized, geometry = resize(with_channels(image, preprocess), preprocess)
    return to_tensor_layout(resized, preprocess), geometry


@overload
def normalize(images: Tensor, preprocess: Preprocess) -> Tensor: ...
@overload
def normalize(images: np.ndarray, preprocess: Preprocess) -> np.ndarray: ...
def normalize(images: Tensor | np.ndarray, preprocess: Preprocess) -> Tensor | np.ndarray:
    """uint8 (B, C, H, W) pixels to the float32 network input: ((x * scale + offset) - mean) / std per channel."""
    if isinstance(images, Tensor):
        factors, shifts = _factor_and_shift_on(preprocess, images.device)
        return images.float() * factors + shifts
    factor, shift = _factor_and_shift(preprocess)
    return images.astype(np.float32) * factor + shift


def _factor_and_shift(preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """float32 (C, 1, 1) each: what makes the network's input of pixels."""
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    factor, shift = preprocess.scale / std, (preprocess.offset - mean) / std
    return factor.astype(np.float32).reshape(-1, 1, 1), shift.astype(np.float32).reshape(-1, 1, 1)


@lru_cache(maxsize=64)
def _factor_and_shift_on(preprocess: Preprocess, device: torch.device) -> tuple[Tensor, Tensor]:
    factor, shift = _factor_and_shift(preprocess)
    return torch.from_numpy(factor).to(device), torch.from_numpy(shift).to(device)
