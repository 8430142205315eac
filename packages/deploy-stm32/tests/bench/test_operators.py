"""Where Neural-ART runs an operator: one small graph for each rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

from stdet_deploy_stm32.bench.kernels import kernels
from stdet_deploy_stm32.bench.operators import RULES, Verdict, lint, untimed
from stdet_deploy_stm32.onnx_graph.view import Graph, read_graph

Build = Callable[..., ModelProto]
node = helper.make_node
SIDE = 32


def verdict_on(view: Graph, op_type: str) -> Verdict:
    steps = kernels(view)
    return next(v for k, v in zip(steps, lint(view, steps), strict=True) if k.op_type == op_type)


def single(
    graph: Build, made: Any, channels: int, outputs: list[int], constants: dict[str, Any] | None = None
) -> Graph:
    return read_graph(graph([made], constants or {}, {"x": [1, channels, SIDE, SIDE]}, {"y": outputs}))


def bounds(start: int, end: int) -> dict[str, np.ndarray]:
    return {k: np.array([v], np.int64) for k, v in {"from": start, "to": end, "axis": 1}.items()}


@pytest.mark.parametrize(
    ("made", "channels", "outputs", "constants", "processor", "says"),
    [
        (node("Softmax", ["x"], ["y"], axis=1), 16, [1, 16, SIDE, SIDE], {}, "CPU", "Softmax"),
        (node("Resize", ["x", "", "s"], ["y"], mode="linear"), 8, [1, 8, 64, 64],
         {"s": np.array([1, 1, 2, 2], np.float32)}, "CPU", "interpolating"),
        (node("Resize", ["x", "", "s"], ["y"], mode="nearest"), 8, [1, 8, 64, 64],
         {"s": np.array([1, 1, 2, 2], np.float32)}, "NPU", ""),
        (node("Slice", ["x", "from", "to", "axis"], ["y"]), 16, [1, 12, SIDE, SIDE], bounds(0, 12), "CPU", "multiple of 8"),
        (node("Slice", ["x", "from", "to", "axis"], ["y"]), 16, [1, 8, SIDE, SIDE], bounds(0, 8), "NPU", ""),
        (node("Split", ["x"], ["y", "z"], axis=1), 10, [1, 5, SIDE, SIDE], {}, "CPU", "multiple of 8"),
        (node("Concat", ["x", "x"], ["y"], axis=1), 10, [1, 20, SIDE, SIDE], {}, "depends", "multiples of 8"),
        (node("Concat", ["x", "x"], ["y"], axis=1), 16, [1, 32, SIDE, SIDE], {}, "NPU", ""),
        (node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1]), 16, [1, SIDE, SIDE, 16], {}, "NPU", "moves nothing"),
        (node("Transpose", ["x"], ["y"], perm=[0, 1, 3, 2]), 16, [1, 16, SIDE, SIDE], {}, "depends", "CPU"),
        (node("ReduceMean", ["x"], ["y"], axes=[2, 3]), 16, [1, 16, 1, 1], {}, "NPU", ""),
        (node("ReduceMean", ["x"], ["y"], axes=[1]), 16, [1, 1, SIDE, SIDE], {}, "CPU", "reduction"),
        (node("MatMul", ["x", "x"], ["y"]), 8, [1, 8, SIDE, SIDE], {}, "CPU", "two activations"),
        (node("Exp", ["x"], ["y"]), 8, [1, 8, SIDE, SIDE], {}, "CPU", "floats"),
        (node("DepthToSpace", ["x"], ["y"], blocksize=2), 8, [1, 2, 64, 64], {}, "CPU", "CPU"),
        (node("Einsum", ["x"], ["y"], equation="nchw->nchw"), 8, [1, 8, SIDE, SIDE], {}, "depends", "not known"),
        (node("HardSwish", ["x"], ["y"]), 8, [1, 8, SIDE, SIDE], {}, "NPU", ""),
    ],
    ids=lambda value: value.op_type if hasattr(value, "op_type") else "",
)  # fmt: skip
def test_a_rule_names_processor_reason_and_what_to_change(
    graph: Build, made: Any, channels: int, outputs: list[int], constants: dict[str, Any], processor: str, says: str
) -> None:
    verdict = verdict_on(single(graph, made, channels, outputs, constants), made.op_type)
    assert verdict.processor == processor
    assert says in verdict.reason
    assert bool(verdict.advice) == (processor != "NPU")


def test_every_rule_has_a_source_that_can_be_looked_up() -> None:
    assert all(rule.verdict.source.startswith(("https://", "docs/")) for rule in RULES)


def quantized(graph: Build, bits: int = 8, weight: bool = True, result: bool = True) -> Graph:
    """A QDQ convolution; without `weight` or `result`, those stay in float."""
    zero = np.array(0, np.int8 if bits == 8 else np.int16)
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]), node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["wq", "s", "z8"], ["wd"]),
        node("Conv", ["xd", "wd" if weight else "w"], ["c" if result else "y"], "conv", kernel_shape=[1, 1]),
    ]  # fmt: skip
    if result:
        nodes += [node("QuantizeLinear", ["c", "s", "z"], ["cq"]), node("DequantizeLinear", ["cq", "s", "z"], ["y"])]
    constants = {"s": np.array(0.1, np.float32), "z": zero, "z8": np.array(0, np.int8)}
    constants |= {"wq": np.ones((8, 8, 1, 1), np.int8), "w": np.ones((8, 8, 1, 1), np.float32)}
    ends = {"x": [1, 8, SIDE, SIDE]}, {"y": [1, 8, SIDE, SIDE]}
    return read_graph(graph(nodes, constants, *ends, opset=21 if bits == 16 else 17))


def test_a_convolution_quantized_on_all_sides_is_the_npus(graph: Build) -> None:
    assert verdict_on(quantized(graph), "Conv").processor == "NPU"


@pytest.mark.parametrize("missing", ["weight", "result"])
def test_a_convolution_with_a_float_side_is_the_cpus(graph: Build, missing: str) -> None:
    verdict = verdict_on(quantized(graph, **{missing: False}), "Conv")
    assert (verdict.processor, verdict.timed) == ("CPU", False)
    assert "QuantizeLinear" in verdict.advice


def test_activations_of_sixteen_bits_are_the_cpus(graph: Build) -> None:
    verdict = verdict_on(quantized(graph, bits=16), "Conv")
    assert verdict.processor == "CPU"
    assert "8 bits" in verdict.reason


def test_a_join_of_uneven_parts_that_others_read_takes_away_the_latency(graph: Build) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"], kernel_shape=[1, 1]),
        node("Concat", ["x", "a"], ["b"], axis=1),
        node("Concat", ["a", "b"], ["y"], axis=1),
    ]
    weight = {"w": np.ones((26, 16, 1, 1), np.float32)}
    view = read_graph(graph(nodes, weight, {"x": [1, 16, SIDE, SIDE]}, {"y": [1, 68, SIDE, SIDE]}))
    steps = kernels(view)
    assert [kernel.op_type for kernel, _ in untimed(view, steps, lint(view, steps))] == ["Concat", "Concat"]


def test_a_small_softmax_at_the_end_takes_no_latency_away(graph: Build) -> None:
    view = read_graph(graph([node("Softmax", ["x"], ["y"], axis=1)], {}, {"x": [1, 1000]}, {"y": [1, 1000]}))
    steps = kernels(view)
    assert untimed(view, steps, lint(view, steps)) == []
