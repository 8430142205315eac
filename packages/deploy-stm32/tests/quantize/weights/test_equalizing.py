from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.gates import floors
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.quantize.form.check import check_form
from stdet_deploy_stm32.quantize.int8 import quantize_onnx
from stdet_deploy_stm32.quantize.prepare import prepare
from stdet_deploy_stm32.quantize.weights.equalizing import dominant_pairs, equalize, pairs

Build = Callable[..., ModelProto]
Photos = Callable[..., CalibrationData]

GATES = {
    "silu": [helper.make_node("Sigmoid", ["c"], ["g"], "gate"), helper.make_node("Mul", ["c", "g"], ["a"], "mul")],
    "hardswish": [helper.make_node("HardSwish", ["c"], ["a"], "gate")],
    "hardswish in two": [
        helper.make_node("HardSigmoid", ["c"], ["g"], "gate", alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", ["g", "c"], ["a"], "mul"),
    ],
    "relu": [helper.make_node("Relu", ["c"], ["a"], "relu")],
}


@pytest.fixture
def uneven(graph: Build) -> Callable[..., ModelProto]:
    """Conv, activation, conv; channels of very different size, the small ones read strongly."""

    def build(activation: str, depthwise: bool = False) -> ModelProto:
        rng = np.random.default_rng(0)
        sizes = np.array([30, 5, 0.3, 0.05], np.float32)
        w1 = rng.uniform(-0.01, 0.02, (4, 3, 1, 1)).astype(np.float32) * sizes.reshape(-1, 1, 1, 1)
        w2 = rng.normal(0, 1, (4, 1, 3, 3) if depthwise else (4, 4, 1, 1)).astype(np.float32)
        w2 = w2 / (sizes.reshape(-1, 1, 1, 1) if depthwise else sizes.reshape(1, -1, 1, 1))
        settings = {"group": 4, "pads": [1, 1, 1, 1]} if depthwise else {}
        nodes = [
            helper.make_node("Conv", ["x", "w1", "b1"], ["c"], "one"),
            *GATES[activation],
            helper.make_node("Conv", ["a", "w2"], ["y"], "two", **settings),
        ]
        constants = {"w1": w1, "w2": w2.astype(np.float32), "b1": np.full(4, 0.1, np.float32)}
        return graph(nodes, constants, {"x": [1, 3, 16, 16]}, {"y": [1, 4, 16, 16]})

    return build


def run(model: ModelProto, image: np.ndarray, names: list[str] | None = None) -> list[np.ndarray]:
    copy = ModelProto.FromString(model.SerializeToString())
    if names:
        del copy.graph.output[:]
        copy.graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    session = new_session(copy.SerializeToString(), optimize=False)
    return [np.asarray(v) for v in session.run(names, {session.get_inputs()[0].name: image})]


def prepared(model: ModelProto, tmp_path) -> ModelProto:  # type: ignore[no-untyped-def]
    onnx.save(model, tmp_path / "f.onnx")
    return prepare(tmp_path / "f.onnx", 17)


@pytest.mark.parametrize("activation", list(GATES))
@pytest.mark.parametrize("depthwise", [False, True])
def test_the_function_stays_and_the_channels_become_alike(  # type: ignore[no-untyped-def]
    uneven: Callable[..., ModelProto], tmp_path, photos: Photos, activation: str, depthwise: bool
) -> None:
    model = prepared(uneven(activation, depthwise), tmp_path)
    (pair,) = pairs(model)
    even = equalize(model, photos(4), [pair])
    peaks = np.zeros(4)
    for image in photos(4).batches():
        np.testing.assert_allclose(run(even, image)[0], run(model, image)[0], rtol=2e-3, atol=2e-3)
        peaks = np.maximum(peaks, np.abs(run(even, image, ["a"])[0]).max((0, 2, 3)))
    assert peaks.max() == pytest.approx(1, rel=1e-3)
    if activation == "relu":
        assert peaks.min() == pytest.approx(1, rel=1e-3)
        assert [n.op_type for n in even.graph.node] == ["Conv", "Relu", "Conv"]
    else:
        original = np.max([np.abs(run(model, i, ["a"])[0]).max((0, 2, 3)) for i in photos(4).batches()], axis=0)
        assert peaks.max() / peaks.min() <= max(2.0, original.max() / original.min() / 255 * 1.01)


def test_the_factors_of_a_gate_are_exact_in_eight_bits(  # type: ignore[no-untyped-def]
    uneven: Callable[..., ModelProto], tmp_path, photos: Photos
) -> None:
    model = prepared(uneven("silu"), tmp_path)
    even = equalize(model, photos(4), pairs(model))
    factors = next(numpy_helper.to_array(t) for t in even.graph.initializer if t.name == "c_factors")
    assert factors.shape == (1, 4, 1, 1)
    steps = factors / (factors.max() / 255)
    assert np.abs(steps - np.rint(steps)).max() < 1e-3


@pytest.mark.parametrize("activation", ["silu", "hardswish"])
def test_where_one_channel_dwarfs_the_others_the_recipe_equalizes_and_gains(  # type: ignore[no-untyped-def]
    uneven: Callable[..., ModelProto], tmp_path, photos: Photos, section, activation: str
) -> None:
    onnx.save(uneven(activation, depthwise=True), tmp_path / "f.onnx")
    without = section(extra={"CrossLayerEqualization": False})
    plain = quantize_onnx(tmp_path / "f.onnx", tmp_path / "p.onnx", photos(), without)
    even = quantize_onnx(tmp_path / "f.onnx", tmp_path / "e.onnx", photos(), section())
    assert (plain["equalized"], even["equalized"]) == ([], ["a"])
    assert even["sqnr_db"]["y"] > plain["sqnr_db"]["y"] + 3
    assert check_form(onnx.load(tmp_path / "e.onnx")) == []


def test_a_pair_needs_a_result_that_only_convolutions_read(detector: Build) -> None:
    """In the miniature detector the stem's result is read by the residual too, and a2 comes from an addition."""
    assert [pair.tensors for pair in pairs(detector())] == [("c1", "m1")]


def test_floors_are_known_for_both_spellings(uneven: Callable[..., ModelProto]) -> None:
    assert floors(uneven("silu")) == {"c": -8.0}
    assert floors(uneven("hardswish")) == floors(uneven("hardswish in two")) == {"c": -3.0}
    assert floors(uneven("relu")) == {}


def test_only_a_pair_that_dominates_is_equalized(detector: Build) -> None:
    model = detector()
    assert [p.tensors for p in dominant_pairs(model, {"c1": 2.0, "m1": 2.0, "a2": 5.0})] == [("c1", "m1")]
    assert dominant_pairs(model, {"c1": 0.5, "m1": 0.5, "a2": 5.0}) == []
