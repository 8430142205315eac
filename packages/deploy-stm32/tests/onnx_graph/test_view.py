"""The view of a graph, and what one layer of each kind costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, helper

from stdet_deploy_stm32.bench.kernels import kernels
from stdet_deploy_stm32.bench.macc import KernelCost, costs
from stdet_deploy_stm32.onnx_graph.view import Graph, read_graph

Build = Callable[..., ModelProto]


def layer_costs(view: Graph) -> list[KernelCost]:
    return costs(view, kernels(view))


def test_a_transposed_convolution_counts_each_input_pixel_with_each_tap(graph: Build) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    model = graph([node], {"w": np.ones((4, 6, 2, 2), np.float32)}, {"x": [1, 4, 5, 5]}, {"y": [1, 6, 10, 10]})
    (row,) = layer_costs(read_graph(model))
    assert row.macc == 25 * 4 * 6 * 4


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_counts_inputs_times_outputs_and_biases(graph: Build, transposed: int) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=transposed)
    weight = np.ones((10, 7) if transposed else (7, 10), np.float32)
    model = graph([node], {"w": weight, "b": np.ones(10, np.float32)}, {"x": [1, 7]}, {"y": [1, 10]})
    (row,) = layer_costs(read_graph(model))
    assert (row.macc, row.parameters, row.weights_bytes) == (80, 80, 110)


def test_a_batch_norm_becomes_the_bias_of_its_convolution(graph: Build) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"]),
    ]
    four = {name: np.ones(4, np.float32) for name in "sbmv"}
    model = graph(nodes, {"w": np.ones((4, 3, 1, 1), np.float32)} | four, {"x": [1, 3, 2, 2]}, {"y": [1, 4, 2, 2]})
    (row,) = layer_costs(read_graph(model))
    assert (row.parameters, row.weights_bytes, row.macc) == (16, 12 + 16, 4 * (12 + 4))


def test_shape_arithmetic_of_exporters_is_folded_and_a_view_costs_nothing(graph: Build) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "minus"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    constants = {
        "zero": np.array([0], np.int64),
        "minus": np.array([-1], np.int64),
        "w": np.ones((12, 2), np.float32),
    }
    model = graph(nodes, constants, {"x": ["batch", 3, 2, 2]}, {"y": ["batch", 2]})
    view = read_graph(model)
    assert [layer.op_type for layer in view.layers] == ["MatMul"]
    assert [row.macc for row in layer_costs(view)] == [24]


def test_a_weight_that_two_layers_share_is_stored_once(graph: Build) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["a", "w"], ["y"], kernel_shape=[1, 1]),
    ]
    model = graph(nodes, {"w": np.ones((3, 3, 1, 1), np.float32)}, {"x": [1, 3, 2, 2]}, {"y": [1, 3, 2, 2]})
    assert [row.weights_bytes for row in layer_costs(read_graph(model))] == [9, 0]


def test_an_activation_that_follows_a_tensor_with_other_readers_keeps_its_own_memory(graph: Build) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["c", "r"], ["y"]),
    ]
    model = graph(nodes, {"w": np.ones((3, 3, 1, 1), np.float32)}, {"x": [1, 3, 2, 2]}, {"y": [1, 3, 2, 2]})
    assert [layer.op_type for layer in read_graph(model).layers] == ["Conv", "Relu", "Add"]
