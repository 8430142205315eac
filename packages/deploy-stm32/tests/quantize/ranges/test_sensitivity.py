from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, helper

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.tail import LAYOUT
from stdet_deploy_stm32.quantize.ranges.methods import least_error_range, range_error
from stdet_deploy_stm32.quantize.ranges.sensitivity import Sensitivity, head_tensors, sensitivities

Build = Callable[..., ModelProto]
Photos = Callable[..., CalibrationData]
RANGES = {"x": (0.0, 255.0), "c": (-2000.0, 2000.0), "y": (-2000.0, 2000.0)}


@pytest.fixture
def linear(graph: Build) -> ModelProto:
    """y = w2 (w1 x), pointwise; channel 0 of c is large and hardly read, channel 1 is small and read strongly."""
    nodes = [helper.make_node("Conv", ["x", "w1"], ["c"], "one"), helper.make_node("Conv", ["c", "w2"], ["y"], "two")]
    w1 = np.array([[5.0, 1, 0.5], [0.01, 0.01, -0.02]], np.float32).reshape(2, 3, 1, 1)
    w2 = np.array([[0.001, 1.0]], np.float32).reshape(1, 2, 1, 1)
    return graph(nodes, {"w1": w1, "w2": w2}, {"x": [1, 3, 16, 16]}, {"y": [1, 1, 16, 16]})


def test_the_predicted_error_of_a_linear_layer_is_the_measured_one(linear: ModelProto, photos: Photos) -> None:
    """Oracle: round c by hand and look at y, in units of y's variance."""
    found = sensitivities(linear, photos(8), RANGES)["c"]
    low, high = -6.0, 1500.0
    step = (high - low) / 255
    noise, values = 0.0, []
    for image in photos(8).batches():
        c = np.einsum("oi,nihw->nohw", [[5.0, 1, 0.5], [0.01, 0.01, -0.02]], image)
        rounded = np.clip(np.round(c / step) * step, low, high)
        weights = np.array([0.001, 1.0]).reshape(1, 2, 1, 1)
        noise += np.square((rounded - c) * weights).sum(1).mean()
        values.append((c * weights).sum(1))
    assert found.error(low, high) == pytest.approx(noise / np.var(values), rel=0.15)


def test_the_range_serves_the_channel_that_the_outputs_listen_to(linear: ModelProto, photos: Photos) -> None:
    """By plain MSE the large channel would decide, and lose nothing."""
    found = sensitivities(linear, photos(8), RANGES)["c"]
    low, high = found.best_range()
    assert high < 0.3 * 255 * 6.5
    assert found.error(low, high) < 0.5 * found.error(-6.0, 255 * 6.5)


def test_what_the_outputs_ignore_weighs_nothing(graph: Build, photos: Photos) -> None:
    """The negative side of a Relu, the flat tail of a SiLU."""
    for nodes in (
        [helper.make_node("Relu", ["c"], ["y"], "relu")],
        [helper.make_node("Sigmoid", ["c"], ["s"], "s"), helper.make_node("Mul", ["c", "s"], ["y"], "m")],
    ):
        conv = helper.make_node("Conv", ["x", "w"], ["c"], "conv")
        w = np.array([[1.0, 0, 0], [-1, 0, 0]], np.float32).reshape(2, 3, 1, 1)
        model = graph([conv, *nodes], {"w": w}, {"x": [1, 3, 16, 16]}, {"y": [1, 2, 16, 16]})
        low, high = sensitivities(model, photos(4), {"c": (-255.0, 255.0)})["c"].best_range()
        assert high == pytest.approx(255, rel=0.1)
        assert -8.5 < low <= 0


def test_exact_zeros_count_for_nothing() -> None:
    found = Sensitivity(0.0, 4.0)
    found.add(np.array([0, 0, 1], np.float32), np.array([9, 9, 2], np.float32))
    assert found.weights.sum() == 4.0


def test_a_tensor_without_influence_keeps_its_range() -> None:
    assert Sensitivity(-1.0, 3.0).best_range() == (-1.0, 3.0)
    assert Sensitivity(0.0, 0.0).best_range() == (0.0, 0.0)


def test_the_range_error_is_a_slow_sum() -> None:
    rng = np.random.default_rng(1)
    centers, weights = np.sort(rng.normal(0, 2, 50)), rng.uniform(0, 1, 50)
    for low, high in ((-1.0, 2.0), (-9.0, 9.0), (0.0, 0.1), (-3.0, 0.0)):
        expected = 0.0
        for c, w in zip(centers, weights, strict=True):
            outside = low - c if c < low else c - high if c > high else None
            expected += w * (((high - low) / 255) ** 2 / 12 if outside is None else outside**2)
        assert range_error(centers, weights, np.array(low), np.array(high)) == pytest.approx(expected, rel=1e-9)


def test_the_least_error_is_the_least_of_a_fine_grid() -> None:
    rng = np.random.default_rng(2)
    values = np.sort(rng.laplace(0.5, 1, 20_000))
    found = least_error_range(values, np.ones_like(values), values[0], values[-1])
    best = min(
        float(range_error(values, np.ones_like(values), np.array(low), np.array(high)))
        for low in np.linspace(values[0], 0, 80)
        for high in np.linspace(0.1, values[-1], 80)
    )
    assert float(range_error(values, np.ones_like(values), *map(np.array, found))) < best * 1.02


def test_heads_are_what_the_outputs_are_joined_from(detector: Build) -> None:
    assert head_tensors(detector()) == ["boxes", "scores"]
    assert "Concat" in LAYOUT


def test_with_constant_outputs_nothing_matters(linear: ModelProto, photos: Photos) -> None:
    found = sensitivities(linear, photos(3, value=7.0), RANGES)
    assert {name: s.best_range() for name, s in found.items()} == RANGES
