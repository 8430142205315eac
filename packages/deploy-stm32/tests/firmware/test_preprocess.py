"""The C pre-processing against the one that training and evaluation use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

from stdet.data.preprocess import normalize, prepare
from stdet.structures import ColorMode, Interpolation, ResizeMode
from stdet_deploy_stm32.firmware.facts import Firmware, Tensor

Build = Callable[..., Firmware]
SIZES = [(64, 96), (37, 53), (120, 200), (480, 640), (200, 31), (333, 500), (1, 1), (2, 3), (128, 192)]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise and a ramp: edges and smooth parts."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3).astype(np.uint8)
    return np.where(rng.random((height, width, 1)) < 0.5, noise, ramp)


def levels(firmware: Firmware, image: np.ndarray) -> np.ndarray:
    """What Python feeds, as the firmware's input is laid out."""
    return normalize(prepare(image, firmware.spec.preprocess)[0][None], firmware.spec.preprocess)


@pytest.mark.parametrize("mode", get_args(ResizeMode))
def test_bilinear_pictures_are_fed_bit_for_bit_as_in_training(firmware: Build, compiled: Any, mode: str) -> None:
    facts = firmware(resize_mode=mode)
    model = compiled(facts)
    for height, width in SIZES:
        image = picture(height, width)
        np.testing.assert_array_equal(model.feed(image)[0], levels(facts, image), err_msg=f"{height} x {width}")


@pytest.mark.parametrize("interpolation", [i for i in get_args(Interpolation) if i != "nearest"])
def test_every_kernel_is_within_a_grey_level(firmware: Build, compiled: Any, interpolation: str) -> None:
    facts = firmware(interpolation=interpolation)
    model = compiled(facts)
    for height, width in SIZES:
        image = picture(height, width)
        off = np.abs(model.feed(image)[0] - levels(facts, image))
        assert off.max() <= 1, f"{height} x {width}"
        assert (off > 0).mean() < 0.25  # OpenCV rounds halves up when it averages 2 x 2 pixels


def test_nearest_pixels_are_the_nearest_where_none_is_halfway(firmware: Build, compiled: Any) -> None:
    facts = firmware(interpolation="nearest")
    model = compiled(facts)
    for height, width in [(64, 96), (37, 53), (121, 203), (480, 640), (333, 499), (1, 1)]:
        ties = [((2 * np.arange(out) + 1) * side) % (2 * out) == 0 for side, out in ((height, 64), (width, 96))]
        image = picture(height, width)
        same = model.feed(image)[0] == levels(facts, image)
        assert same[..., ~ties[0], :][..., ~ties[1]].all()


@pytest.mark.parametrize("mode", get_args(ColorMode))
def test_channels_stand_in_the_networks_order(firmware: Build, compiled: Any, mode: str) -> None:
    channels = {"grayscale": 1, "rgba": 4}.get(mode, 3)
    means, deviations = (90.0, 100.0, 110.0, 5.0)[:channels], (50.0, 60.0, 70.0, 8.0)[:channels]
    facts = firmware(color_mode=mode, resize_mode="letterbox", mean=means, std=deviations, scale=0.5, offset=3.0)
    image = picture(100, 80)
    np.testing.assert_array_equal(compiled(facts).feed(image)[0], levels(facts, image))
    last = compiled(facts, channels_last=True).feed(image)[0].reshape(1, 64, 96, channels)
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), levels(facts, image))


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_integer_inputs_are_quantized_as_in_evaluation(firmware: Build, compiled: Any, kind: str) -> None:
    facts = firmware(mean=(100.0, 110.0, 120.0), std=(58.0, 57.0, 56.0))
    border = Tensor("images", facts.input.shape, np.dtype(kind), 0.013, {"int8": 4, "uint8": 140}[kind])
    facts = dataclasses.replace(facts, input=border)
    image = picture(64, 96)
    np.testing.assert_array_equal(compiled(facts).feed(image)[0], border.quantize(levels(facts, image)))


def test_rows_of_a_picture_may_lie_apart(firmware: Build, compiled: Any) -> None:
    facts = firmware(resize_mode="crop")
    frame = picture(300, 400)
    part = frame[20:220, 30:330]
    np.testing.assert_array_equal(compiled(facts).feed(part)[0], levels(facts, part))


def test_boxes_come_back_to_the_picture_as_in_python(firmware: Build, compiled: Any) -> None:
    for mode in get_args(ResizeMode):
        facts = firmware(resize_mode=mode)
        image = picture(200, 150)
        scales = compiled(facts).feed(image)[1]
        _, geometry = prepare(image, facts.spec.preprocess)
        wanted = [geometry.scale_x, geometry.scale_y, geometry.offset_x, geometry.offset_y]
        np.testing.assert_allclose([scales.scale_x, scales.scale_y, scales.offset_x, scales.offset_y], wanted, 1e-6)


def test_a_picture_without_pixels_is_refused(firmware: Build, compiled: Any) -> None:
    model = compiled(firmware())
    for shape in ((0, 5, 3), (5, 0, 3)):
        with pytest.raises(ValueError, match="refused"):
            model.feed(np.zeros(shape, np.uint8))
