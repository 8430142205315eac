"""The colour parts of the recipes against slow floating-point formulas; alpha is never recoloured."""

from __future__ import annotations

import colorsys
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stdet.data.preprocess import to_tensor_layout
from stdet.interfaces.transform import Transform, TransformContext
from stdet.structures import Preprocess, Sample
from stdet_datasets.options import YoloxAugmentation
from stdet_datasets.ssd_recipe import SsdRecipe, distort
from stdet_datasets.yolox_recipe import HSV_GAINS, YoloxRecipe, change_hsv, shift_hsv

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
RGBA = Preprocess(96, 96, "letterbox", color_mode="rgba", mean=(0.0,) * 4, std=(1.0,) * 4)


@settings(max_examples=40, deadline=None)
@given(hue=st.integers(-5, 5), saturation=st.integers(-30, 30), value=st.integers(-30, 30))
def test_a_shift_of_hue_saturation_and_value_is_the_formula(hue: int, saturation: int, value: int) -> None:
    made = shift_hsv(COLOURS.copy(), hue, saturation, value).reshape(-1, 3).astype(int)
    for pixel, got in zip(COLOURS.reshape(-1, 3), made, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
        s, v = (np.clip(x + d / 255, 0, 1) for x, d in ((s, saturation), (v, value)))
        expected = np.array(colorsys.hsv_to_rgb((h + hue / 180) % 1, s, v)) * 255
        # 8-bit hue has steps of 2 degrees, half of which is 1/60 of a sector of the circle
        assert np.abs(got - expected).max() <= 2 + 255 / 60 * s * v


def test_hsv_changes_stay_within_their_gains_and_reach_them() -> None:
    rng = np.random.default_rng(0)
    grey = np.full((1, 1, 3), 128, np.uint8)
    values = [int(change_hsv(grey, rng).max()) - 128 for _ in range(3000)]  # the largest channel is the value
    assert -HSV_GAINS[2] <= min(values) <= -HSV_GAINS[2] + 2
    assert HSV_GAINS[2] - 2 <= max(values) <= HSV_GAINS[2]
    assert 0.45 < np.mean(np.array(values) == 0) < 0.6  # left alone half of the time


class Scripted:
    """A generator that draws what it is told."""

    def __init__(self, amounts: tuple[float, float, float, float], coins: tuple[bool, ...]) -> None:
        self.amounts, self.coins = amounts, coins

    def uniform(self, low: Any, high: Any) -> np.ndarray:
        assert (low, high) == ((-32, 0.5, 0.5, -18), (32, 1.5, 1.5, 18))
        return np.array(self.amounts)

    def random(self, count: int) -> np.ndarray:
        return np.where(np.array(self.coins), 0.2, 0.8)

    def permutation(self, count: int) -> np.ndarray:
        return np.array([2, 0, 1])


@settings(max_examples=60, deadline=None)
@given(
    amounts=st.tuples(st.floats(-32, 32), st.floats(0.5, 1.5), st.floats(0.5, 1.5), st.floats(-18, 18)),
    coins=st.tuples(*[st.booleans()] * 6),
)
def test_photometric_distortion_is_the_formula_of_the_paper(
    amounts: tuple[float, float, float, float], coins: tuple[bool, ...]
) -> None:
    made = distort(COLOURS, Scripted(amounts, coins)).astype(float)  # type: ignore[arg-type]
    (brightness, contrast, saturation, hue), (light, contrasted, first, saturated, turned, ordered) = amounts, coins
    out = np.clip((COLOURS + brightness * light) * (contrast if contrasted and first else 1), 0, 255)
    hsv = cv2.cvtColor((out / 255).astype(np.float32), cv2.COLOR_RGB2HSV)  # hue 0..360
    hsv[..., 1] = np.clip(hsv[..., 1] * (saturation if saturated else 1), 0, 1)
    steps = round(hue * turned * 256 / 360)  # a random shift may as well be drawn in whole steps of 1.4 degrees
    hsv[..., 0] = (hsv[..., 0] + steps * 360 / 256) % 360
    out = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255.0 * (contrast if contrasted and not first else 1)
    expected = np.clip(out[..., [2, 0, 1]] if ordered else out, 0, 255)
    # 8 bits between the steps; hue is rounded to 1.4 degrees, half of which is 1/85 of a sector
    limit = (4 + 2 * 255 / 85) * max(1, contrast) if saturated or turned else 1.5
    assert np.abs(made - expected).max() <= limit
    assert np.abs(made - expected).mean() <= 2.5


@pytest.mark.parametrize("recipe", [YoloxRecipe(YoloxAugmentation(enable_mixup=True)), SsdRecipe()])
def test_alpha_reaches_the_network_untouched_by_colours(recipe: Transform) -> None:
    image = np.zeros((96, 96, 4), np.uint8)
    image[..., :3], image[..., 3] = 200, 77
    box = np.array([[10, 10, 80, 80]], np.float32)
    sample = Sample(image, box, np.zeros(1, np.int64))
    for seed in range(25):
        for strong in (True, False):
            context = TransformContext(np.random.default_rng(seed), lambda: sample, RGBA, strong)
            made = recipe(sample, context).image
            assert made.shape == (96, 96, 4)
            # 77 of the image, 114 of the fill, and what interpolation and mixup make between the two
            assert 76 <= made[..., 3].min() <= made[..., 3].max() <= 114
            assert (made[..., 3] == 77).any()


def test_an_image_without_alpha_is_opaque_where_the_network_wants_one() -> None:
    sample = Sample(np.full((96, 96, 3), 50, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    for recipe in (YoloxRecipe(), SsdRecipe()):
        context = TransformContext(np.random.default_rng(1), lambda: sample, RGBA)
        made = to_tensor_layout(recipe(sample, context).image, RGBA)
        assert made.shape == (4, 96, 96)
        assert (made[3] == 255).any()
