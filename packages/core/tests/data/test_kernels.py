"""All eight kernels against a slow resampler of their formulas, and against Pillow where it has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stdet.data.preprocess import downsample, resample
from stdet.structures import Interpolation


def lanczos(lobes: int) -> Callable[[float], float]:
    def value(x: float) -> float:
        if x == 0:
            return 1.0
        return lobes * math.sin(math.pi * x) * math.sin(math.pi * x / lobes) / (math.pi * x) ** 2 if x < lobes else 0.0

    return value


def cubic(x: float, b: float, c: float) -> float:
    """Mitchell and Netravali's two-parameter cubic (1988), equation 8."""
    if x < 1:
        return ((12 - 9 * b - 6 * c) * x**3 + (-18 + 12 * b + 6 * c) * x**2 + 6 - 2 * b) / 6
    if x < 2:
        return ((-b - 6 * c) * x**3 + (6 * b + 30 * c) * x**2 + (-12 * b - 48 * c) * x + 8 * b + 24 * c) / 6
    return 0.0


KERNELS: dict[str, tuple[int, Callable[[float], float]]] = {
    "bilinear": (1, lambda x: max(0.0, 1 - x)),
    "bicubic": (2, lambda x: cubic(x, 0, 0.75)),  # OpenCV's Keys kernel, a = -0.75
    "lanczos3": (3, lanczos(3)),
    "lanczos5": (5, lanczos(5)),
    "gaussian": (2, lambda x: math.exp(-0.5 * (x / 0.5) ** 2) if x < 1.5 else 0.0),  # TensorFlow: radius 1.5, sigma 0.5
    "mitchellcubic": (2, lambda x: cubic(x, 1 / 3, 1 / 3)),
}


def slow_row(row: np.ndarray, target: int, kernel: str) -> np.ndarray:
    """Half-pixel centres; beyond the ends, `bilinear` and `bicubic` repeat the last pixel and the others leave it out."""
    reach, weight = KERNELS[kernel]
    out = np.zeros((target, row.shape[1]))
    for position in range(target):
        centre = (position + 0.5) * len(row) / target - 0.5
        total = 0.0
        for source in range(math.floor(centre) - reach, math.floor(centre) + reach + 2):
            w = weight(abs(source - centre))
            if 0 <= source < len(row) or kernel in ("bilinear", "bicubic"):
                out[position] += w * row[min(max(source, 0), len(row) - 1)]
                total += w
        out[position] /= total
    return out


def slow_resample(image: np.ndarray, height: int, width: int, kernel: str) -> np.ndarray:
    columns = np.stack([slow_row(row, width, kernel) for row in image.astype(float)])
    rows = np.stack([slow_row(columns[:, x], height, kernel) for x in range(width)], 1)
    return np.clip(rows, 0, 255)


def slow_area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mean over the rectangle of source pixels under each target pixel, parts of pixels in proportion."""

    def shares(source: int, target: int) -> np.ndarray:
        edges = np.arange(target + 1) * source / target
        low = np.maximum(edges[:-1, None], np.arange(source))
        high = np.minimum(edges[1:, None], np.arange(source) + 1)
        return np.clip(high - low, 0, None) * target / source

    return np.einsum(
        "ys,xt,stc->yxc", shares(image.shape[0], height), shares(image.shape[1], width), image.astype(float)
    )


def test_every_kernel_of_the_config_has_an_oracle_here() -> None:
    assert set(get_args(Interpolation)) == {*KERNELS, "nearest", "area"}


SIDES = st.integers(3, 24)


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=12, deadline=None)
@given(size=st.tuples(SIDES, SIDES), target=st.tuples(SIDES, SIDES), seed=st.integers(0, 99))
def test_a_kernel_is_its_formula_enlarging_and_shrinking(
    kernel: str, size: tuple[int, int], target: tuple[int, int], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    made = resample(image, *target, kernel).astype(float)
    if size == target:  # nothing to resample, even where the kernel would blur
        assert np.array_equal(made, image)
        return
    # OpenCV rounds its weights to 1/2048, and differently on different processors
    tolerance = 2.01 if kernel in ("bilinear", "bicubic") else 0.51
    assert np.abs(made - slow_resample(image, *target, kernel)).max() <= tolerance


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(SIDES, SIDES), share=st.tuples(st.floats(0.1, 1), st.floats(0.1, 1)), seed=st.integers(0, 99))
def test_area_is_the_mean_of_what_lies_under_a_pixel(
    size: tuple[int, int], share: tuple[float, float], seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    height, width = (max(1, round(side * part)) for side, part in zip(size, share, strict=True))
    assert np.abs(resample(image, height, width, "area") - slow_area(image, height, width)).max() <= 1.01


@settings(max_examples=40, deadline=None)
@given(size=st.tuples(SIDES, SIDES), target=st.tuples(SIDES, SIDES))
def test_nearest_takes_the_pixel_under_the_centre_as_pillow_does(
    size: tuple[int, int], target: tuple[int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    made = resample(image, *target, "nearest")
    assert np.array_equal(made, np.asarray(Image.fromarray(image).resize(target[::-1], Image.Resampling.NEAREST)))


@pytest.mark.parametrize("size", [(37, 43), (85, 90)])
@pytest.mark.parametrize("kernel", get_args(Interpolation))
def test_shrinking_for_training_does_not_alias_with_any_kernel(kernel: str, size: tuple[int, int]) -> None:
    """Stripes of one pixel are grey from afar; a kernel alone would pick some of them."""
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, ::2] = 255
    small = downsample(stripes, *size, kernel).astype(float)
    assert abs(small.mean() - 127.5) < 3
    assert small.std() < 40
    if kernel not in ("area", "gaussian", "mitchellcubic"):
        assert resample(stripes, *size, kernel).astype(float).std() > 60
