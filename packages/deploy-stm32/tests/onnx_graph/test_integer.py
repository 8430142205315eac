"""The integer reference against arithmetic in whole numbers and fractions, and beside onnxruntime layer by layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stdet.errors import ModelError
from stdet_deploy_stm32.onnx_graph.integer import IntegerReference
from stdet_deploy_stm32.onnx_graph.session import watching


def step(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def qdq(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: list[int], out: list[int]) -> ModelProto:
    """int8 `x` to int8 `y`: `nodes` read the dequantized `a` and write `b`."""
    constants = {"zero": np.array(-3, np.int8), "out_zero": np.array(5, np.int8)} | constants
    around = [
        helper.make_node("DequantizeLinear", ["x", "x_scale", "zero"], ["a"], "dq"),
        *nodes,
        helper.make_node("QuantizeLinear", ["b", "y_scale", "out_zero"], ["y"], "q"),
    ]
    graph = helper.make_graph(
        around,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.INT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.INT8, out)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def rounded(value: Fraction, zero: int = 5) -> int:
    """To the nearest, ties to even, saturated."""
    return min(127, max(-128, round(value) + zero))


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_convolution_is_an_exact_sum_and_one_rounding(group: int) -> None:
    rng = np.random.default_rng(group)
    x = rng.integers(-128, 128, (1, 4, 6, 5), dtype=np.int8)
    weight = rng.integers(-127, 128, (8, 4 // group, 3, 2), dtype=np.int8)
    bias = rng.integers(-3000, 3000, 8, dtype=np.int32)
    scales = rng.uniform(0.001, 0.02, 8).astype(np.float32)
    constants = {
        "x_scale": step(0.07), "y_scale": step(0.31), "w": weight, "w_scale": scales, "w_zero": np.zeros(8, np.int8),
        "bias": bias, "b_scale": scales * np.float32(0.07), "b_zero": np.zeros(8, np.int32),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], "wdq", axis=0),
        helper.make_node("DequantizeLinear", ["bias", "b_scale", "b_zero"], ["bf"], "bdq", axis=0),
        helper.make_node("Conv", ["a", "wf", "bf"], ["b"], "conv", pads=[1, 0, 1, 1], strides=[2, 1], group=group),
    ]
    found = IntegerReference(qdq(nodes, constants, [1, 4, 6, 5], [1, 8, 3, 5])).run({"x": x}).outputs["y"]
    assert found.dtype == np.int8
    for channel, row, column in itertools.product(range(8), range(3), range(5)):
        total = int(bias[channel])
        first = channel // (8 // group) * (4 // group)
        for i, dy, dx in itertools.product(range(4 // group), range(3), range(2)):
            y0, x0 = 2 * row - 1 + dy, column + dx
            if 0 <= y0 < 6 and 0 <= x0 < 5:
                total += (int(x[0, first + i, y0, x0]) + 3) * int(weight[channel, i, dy, dx])
        exact = total * Fraction(float(np.float32(0.07))) * Fraction(float(scales[channel]))
        assert found[0, channel, row, column] == rounded(exact / Fraction(float(np.float32(0.31))))


def test_halves_go_to_the_even_neighbour() -> None:
    constants = {"x_scale": step(0.5), "y_scale": step(1.0)}
    nodes = [helper.make_node("Relu", ["a"], ["b"], "relu")]
    x = np.arange(-3, 9, dtype=np.int8).reshape(1, 12)
    found = IntegerReference(qdq(nodes, constants, [1, 12], [1, 12])).run({"x": x}).outputs["y"]
    assert (found[0] - 5).tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6]


GATES: dict[str, tuple[dict[str, Any], Callable[[float], float]]] = {
    "Sigmoid": ({}, lambda v: 1 / (1 + math.exp(-v))),
    "HardSigmoid": ({"alpha": 1 / 6, "beta": 0.5}, lambda v: min(1, max(0, float(np.float32(1 / 6)) * v + 0.5))),
    "HardSwish": ({}, lambda v: v * min(1, max(0, v / 6 + 0.5))),
    "Tanh": ({}, math.tanh),
    "LeakyRelu": ({"alpha": 0.125}, lambda v: v if v >= 0 else 0.125 * v),
}


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_is_a_table_of_256_entries(gate: str) -> None:
    attributes, formula = GATES[gate]
    constants = {"x_scale": step(0.061), "y_scale": step(0.0123)}
    nodes = [helper.make_node(gate, ["a"], ["b"], gate, **attributes)]
    x = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
    found = IntegerReference(qdq(nodes, constants, [1, 256], [1, 256])).run({"x": x}).outputs["y"]
    scale, out = float(np.float32(0.061)), float(np.float32(0.0123))
    assert found[0].tolist() == [rounded(Fraction(formula((int(q) + 3) * scale) / out)) for q in x[0]]


def test_silu_is_an_exact_product_of_two_integers() -> None:
    constants = {
        "x_scale": step(0.05),
        "y_scale": step(0.02),
        "s_scale": step(1 / 256),
        "s_zero": np.array(-128, np.int8),
    }
    nodes = [
        helper.make_node("Sigmoid", ["a"], ["s"], "sigmoid"),
        helper.make_node("QuantizeLinear", ["s", "s_scale", "s_zero"], ["sq"], "sq"),
        helper.make_node("DequantizeLinear", ["sq", "s_scale", "s_zero"], ["sd"], "sd"),
        helper.make_node("Mul", ["a", "sd"], ["b"], "mul"),
    ]
    x = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
    answer = IntegerReference(qdq(nodes, constants, [1, 256], [1, 256])).run({"x": x})
    for q, s, y in zip(x[0].tolist(), answer.stored["sq"][0].tolist(), answer.outputs["y"][0].tolist(), strict=True):
        exact = (q + 3) * (s + 128) * Fraction(float(np.float32(0.05))) / 256 / Fraction(float(np.float32(0.02)))
        assert y == rounded(exact)


def test_every_layer_of_onnxruntime_is_within_a_step_when_it_gets_the_same_inputs(
    saved: Path, tmp_path: Path, photos: Any, section: Any
) -> None:
    from stdet_deploy_stm32.quantize.modes import Job, run_mode

    run_mode(Job(saved, tmp_path / "int8.onnx", photos(), section(), None, None))
    model = onnx.load(tmp_path / "int8.onnx")
    feeds = {"image": photos().image(0)}
    reference = IntegerReference(model)
    own = reference.run(feeds)
    names = list(own.stored)
    assert len(names) > 8
    theirs = dict(zip(names, watching(model, names).run(names, feeds), strict=True))
    mine = reference.run(feeds, theirs).stored
    off = {name: np.abs(mine[name].astype(int) - theirs[name]) for name in names}
    assert max(int(d.max()) for d in off.values()) <= 1
    assert sum(int((d > 0).sum()) for d in off.values()) < 0.001 * sum(d.size for d in off.values())
    output = watching(model, ["output"]).run(None, feeds)[0]
    assert np.abs(own.outputs["output"] - output).max() < 0.05 * np.abs(output).max()


def test_a_layer_computes_from_what_is_given() -> None:
    constants = {"x_scale": step(0.5), "y_scale": step(0.5), "m_zero": np.array(0, np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["a", "x_scale", "m_zero"], ["m"], "m"),
        helper.make_node("DequantizeLinear", ["m", "x_scale", "m_zero"], ["n"], "n"),
        helper.make_node("Relu", ["n"], ["b"], "relu"),
    ]
    reference = IntegerReference(qdq(nodes, constants, [1, 2], [1, 2]))
    x = np.array([[1, 2]], np.int8)
    answer = reference.run({"x": x}, {"m": np.array([[40, 41]], np.int8)})
    assert answer.stored["m"].tolist() == [[4, 5]]
    assert answer.outputs["y"].tolist() == [[45, 46]]


def test_a_sum_that_does_not_fit_int32_is_refused_with_the_layer() -> None:
    constants = {
        "x_scale": step(0.5), "y_scale": step(0.5), "w": np.full((140000, 1), 127, np.int8), "w_scale": step(0.1),
        "w_zero": np.array(0, np.int8),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], "wdq"),
        helper.make_node("MatMul", ["a", "wf"], ["b"], "wide"),
    ]
    reference = IntegerReference(qdq(nodes, constants, [1, 140000], [1, 1]))
    with pytest.raises(ModelError, match=r"MatMul wide: a sum of .* doesn't fit int32"):
        reference.run({"x": np.full((1, 140000), 127, np.int8)})


def test_operators_that_it_does_not_know_are_named() -> None:
    constants = {"x_scale": step(0.5), "y_scale": step(0.5)}
    model = qdq([helper.make_node("Erf", ["a"], ["b"], "bell")], constants, [1, 2], [1, 2])
    with pytest.raises(ModelError, match=r"doesn't know Erf \(bell\)"):
        IntegerReference(model)


@pytest.mark.parametrize(
    ("node", "shape", "out"),
    [
        (helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), 7, 4),
        (
            helper.make_node("AveragePool", ["a"], ["b"], kernel_shape=[2, 3], pads=[0, 1, 1, 0], strides=[1, 2]),
            7,
            None,
        ),
        (
            helper.make_node("AveragePool", ["a"], ["b"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
            5,
            5,
        ),
        (helper.make_node("GlobalAveragePool", ["a"], ["b"]), 5, 1),
        (helper.make_node("ReduceMean", ["a"], ["b"], axes=[2, 3]), 5, 1),
        (helper.make_node("Softmax", ["a"], ["b"], axis=1), 3, 3),
        (helper.make_node("Resize", ["a", "", "twice"], ["b"], mode="nearest"), 3, 6),
        (helper.make_node("Resize", ["a", "", "twice"], ["b"], mode="linear"), 3, 6),
        (helper.make_node("Clip", ["a", "low", "high"], ["b"]), 3, 3),
        (helper.make_node("Div", ["a", "high"], ["b"]), 3, 3),
        (helper.make_node("Pad", ["a", "margins"], ["b"]), 3, None),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else None,
)
def test_the_other_operators_are_onnxruntimes(node: onnx.NodeProto, shape: int, out: int | None) -> None:
    side: list[Any] = [None, None] if out is None else [out, out]
    constants = {
        "x_scale": step(0.037), "y_scale": step(0.021), "twice": np.array([1, 1, 2, 2], np.float32), "low": step(-0.9),
        "high": step(1.7), "margins": np.array([0, 0, 1, 0, 0, 0, 0, 2], np.int64),
    }  # fmt: skip
    model = qdq([node], constants, [1, 4, shape, shape], [1, 4, *side])
    x = np.random.default_rng(0).integers(-128, 128, (1, 4, shape, shape), dtype=np.int8)
    found = IntegerReference(model).run({"x": x}).outputs["y"]
    wanted = watching(model, ["y"]).run(None, {"x": x})[0]
    assert found.shape == wanted.shape
    off = np.abs(found.astype(int) - wanted)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.02
