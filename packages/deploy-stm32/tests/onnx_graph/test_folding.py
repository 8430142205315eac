"""Constants are folded before shapes are inferred, and absurd graphs end in an error that names the place."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from stdet.errors import ModelError
from stdet_deploy_stm32.onnx_graph.view import read_graph

Build = Callable[..., ModelProto]
node = helper.make_node


def unchecked(nodes: list[Any], inputs: dict[str, list[Any]], outputs: dict[str, list[Any]]) -> ModelProto:
    """A model that the checker need not like."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side.items()]
        for side in (inputs, outputs)
    ]
    return helper.make_model(helper.make_graph(nodes, "g", *values), opset_imports=[helper.make_opsetid("", 17)])


def halves(graph: Build, size: Any = 2) -> ModelProto:
    """As torch exports `chunk(2, 1)`: the middle is computed from the shape, through integer division."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], "conv", kernel_shape=[1, 1]),
        node("Shape", ["c"], ["s"]),
        node("Gather", ["s", "one"], ["n"], axis=0),
        node("Add", ["n", "one"], ["n1"]),
        node("Div", ["n1", "two"], ["half"]),
        node("Mul", ["half", "one"], ["end"]),
        node("Slice", ["c", "zero", "end", "one"], ["low"], "low_half"),
        node("Slice", ["c", "end", "many", "one"], ["high"], "high_half"),
        node("Add", ["low", "high"], ["y"], "sum"),
    ]
    constants = {k: np.array([v], np.int64) for k, v in {"zero": 0, "one": 1, "two": 2, "many": 1 << 40}.items()}
    weight = {"w": np.ones((6, 3, 1, 1), np.float32)}
    return graph(nodes, constants | weight, {"x": [1, 3, size, size]}, {"y": [1, 3, size, size]})


def test_the_arithmetic_of_a_split_into_halves_is_folded(graph: Build) -> None:
    view = read_graph(halves(graph))
    assert [layer.op_type for layer in view.layers] == ["Conv", "Slice", "Slice", "Add"]
    assert view.shapes["high"] == (1, 3, 2, 2)


def test_a_grid_of_anchors_made_in_the_graph_is_a_constant(graph: Build) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "three"], ["width"], axis=0),
        node("Range", ["zero", "width", "one"], ["grid"]),
        node("Cast", ["grid"], ["offsets"], to=TensorProto.FLOAT),
        node("Add", ["x", "offsets"], ["y"], "shift"),
    ]
    constants = {k: np.array(v, np.int64) for k, v in {"zero": 0, "one": 1, "three": 3}.items()}
    view = read_graph(graph(nodes, constants, {"x": ["n", 3, 4, 8]}, {"y": ["n", 3, 4, 8]}))
    assert [layer.op_type for layer in view.layers] == ["Add"]
    assert view.shapes["offsets"] == (8,)
    assert "offsets" in view.constants


def test_a_weight_that_is_transposed_in_the_graph_is_still_a_weight(graph: Build) -> None:
    nodes = [node("Transpose", ["w"], ["wt"], perm=[1, 0]), node("MatMul", ["x", "wt"], ["y"])]
    large = {"w": np.ones((70, 80), np.float32)}
    view = read_graph(graph(nodes, large, {"x": [1, 80]}, {"y": [1, 70]}))
    assert [layer.op_type for layer in view.layers] == ["MatMul"]
    assert view.shapes["wt"] == (80, 70)
    assert "wt" in view.constants


def test_initializers_among_the_inputs_are_no_inputs(graph: Build) -> None:
    model = halves(graph)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [6, 3, 1, 1]))
    assert read_graph(model).inputs == ("x",)


def test_a_constant_of_gigabytes_is_never_made(graph: Build) -> None:
    nodes = [
        node("ConstantOfShape", ["huge"], ["zeros"]),
        node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        node("Add", ["x", "sum"], ["y"]),
    ]
    model = graph(nodes, {"huge": np.array([1 << 20, 1 << 20], np.int64)}, {"x": [1, 2]}, {"y": [1, 2]})
    assert [layer.op_type for layer in read_graph(model).layers] == ["Add"]


def test_the_first_unknown_shape_is_named_with_its_writer_and_the_way_out(graph: Build) -> None:
    nodes = [node("NonZero", ["x"], ["found"], "find"), node("Cast", ["found"], ["y"], to=TensorProto.FLOAT)]
    model = graph(nodes, {}, {"x": [1, 3]}, {"y": ["axes", "count"]})
    with pytest.raises(ModelError, match="tensor `found`, written by NonZero `find`, is not static") as caught:
        read_graph(model)
    assert "without box decoding" in caught.value.hint


def test_a_dynamic_size_is_named_with_its_symbol(graph: Build) -> None:
    with pytest.raises(ModelError, match=r"x\[2\] = side"):
        read_graph(halves(graph, "side"))


def test_operators_outside_the_standard_are_listed_with_their_nodes() -> None:
    nodes = [
        node("Conv2", ["x"], ["a"], "first"), node("Fancy", ["a"], ["b"], "second", domain="com.acme"),
        node("Fancy", ["b"], ["y"], "third", domain="com.acme"),
    ]  # fmt: skip
    model = unchecked(nodes, {"x": [1, 3]}, {"y": [1, 3]})
    with pytest.raises(ModelError, match=r"Conv2 \(node `first`\); com.acme.Fancy \(node `second`, `third`\)"):
        read_graph(model)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Identity", ["b"], ["a"], "one"), node("Identity", ["a"], ["b"], "two")], "cycle at node"),
        ([node("Add", ["x", "a"], ["a"], "self")], "cycle at node `self`"),
        ([node("Relu", ["x"], ["a"]), node("Relu", ["x"], ["a"], "again")], "`a` is written twice"),
        ([node("Add", ["x", "nowhere"], ["a"], "lost")], "`lost` reads `nowhere`, which nothing writes"),
    ],
)
def test_a_graph_that_cannot_run_is_refused_at_its_node(nodes: list[Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_graph(unchecked(nodes, {"x": [1, 3]}, {"a": [1, 3]}))


def test_nodes_in_any_order_are_read(graph: Build) -> None:
    model = halves(graph)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert read_graph(model).layers[0].op_type == "Conv"


def test_a_chain_of_twenty_thousand_nodes_takes_seconds() -> None:
    count = 20_000
    nodes = [node("Sigmoid", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
    model = unchecked(nodes, {"t0": [1, 3, 8, 8]}, {f"t{count}": [1, 3, 8, 8]})
    start = time.perf_counter()
    assert len(read_graph(model).layers) == count
    assert time.perf_counter() - start < 30


def test_more_nodes_than_any_network_has_are_refused_at_once() -> None:
    nodes = [node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(50_001)]
    with pytest.raises(ModelError, match="50001 nodes"):
        read_graph(unchecked(nodes, {"t0": [1]}, {"t50001": [1]}))
