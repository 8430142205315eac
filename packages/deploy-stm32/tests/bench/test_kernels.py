"""What a compiler makes of layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, helper

from stdet_deploy_stm32.bench.kernels import Kernel, kernels
from stdet_deploy_stm32.bench.macc import costs
from stdet_deploy_stm32.onnx_graph.view import read_graph

Build = Callable[..., ModelProto]
node = helper.make_node
WEIGHT = {"w": np.ones((4, 4, 1, 1), np.float32)}
SAME = {"x": [1, 4, 6, 6]}, {"y": [1, 4, 6, 6]}


def steps(model: ModelProto, merge_padding: bool = False) -> tuple[Kernel, ...]:
    return kernels(read_graph(model), merge_padding)


def test_a_product_with_its_own_sigmoid_is_one_gate(graph: Build) -> None:
    nodes = [node("Sigmoid", ["x"], ["s"]), node("Mul", ["s", "x"], ["y"])]
    (gate,) = steps(graph(nodes, {}, *SAME))
    assert (gate.op_type, gate.inputs, gate.outputs) == ("Gate", ("x",), ("y",))


def test_a_sigmoid_that_scales_something_else_is_no_gate(graph: Build) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        node("Sigmoid", ["x"], ["s"]),
        node("Mul", ["s", "c"], ["y"]),
    ]
    assert [k.op_type for k in steps(graph(nodes, WEIGHT, *SAME))] == ["Conv", "Sigmoid", "Mul"]


def test_a_leaky_relu_belongs_to_the_convolution_before_it(graph: Build) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]), node("LeakyRelu", ["c"], ["y"])]
    (kernel,) = steps(graph(nodes, WEIGHT, *SAME))
    assert (kernel.op_type, kernel.leaky) == ("Conv", True)


def test_a_leaky_relu_whose_input_is_read_elsewhere_stands_alone(graph: Build) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        node("LeakyRelu", ["c"], ["l"]),
        node("Add", ["c", "l"], ["y"]),
    ]
    assert [k.op_type for k in steps(graph(nodes, WEIGHT, *SAME))] == ["Conv", "LeakyRelu", "Add"]


def test_padding_is_done_by_the_pool_that_reads_it_where_asked(graph: Build) -> None:
    nodes = [node("Pad", ["x", "pads"], ["p"]), node("MaxPool", ["p"], ["y"], kernel_shape=[2, 2])]
    pads = {"pads": np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64)}
    model = graph(nodes, pads, *SAME)
    assert [k.op_type for k in steps(model)] == ["Pad", "MaxPool"]
    (pool,) = steps(model, merge_padding=True)
    assert pool.inputs == ("x",)


def test_a_linear_layers_bias_is_four_bytes_a_channel(graph: Build) -> None:
    """As torch exports a Linear on three dimensions: MatMul, then Add of a constant."""
    nodes = [node("MatMul", ["x", "m"], ["p"]), node("Add", ["b", "p"], ["y"])]
    constants = {"m": np.ones((7, 10), np.float32), "b": np.ones(10, np.float32)}
    view = read_graph(graph(nodes, constants, {"x": [1, 5, 7]}, {"y": [1, 5, 10]}))
    (kernel,) = kernels(view)
    (cost,) = costs(view, (kernel,))
    assert (kernel.op_type, cost.weights_bytes, cost.macc) == ("MatMul", 70 + 40, 5 * 70)


def test_a_residual_add_is_no_bias(graph: Build) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]), node("Add", ["c", "x"], ["y"])]
    assert [k.op_type for k in steps(graph(nodes, WEIGHT, *SAME))] == ["Conv", "Add"]


def test_a_bias_that_an_exporter_shares_is_stored_with_each_layer(graph: Build) -> None:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[1, 1]),
        node("Conv", ["c", "v", "b"], ["y"], kernel_shape=[1, 1]),
    ]
    constants = WEIGHT | {"v": np.full((4, 4, 1, 1), 2, np.float32), "b": np.zeros(4, np.float32)}
    view = read_graph(graph(nodes, constants, *SAME))
    assert [row.weights_bytes for row in costs(view, kernels(view))] == [32, 32]
