"""Multiply-accumulates, parameters and int8 weight bytes of each kernel: counts that need no board."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stdet_deploy_stm32.bench.kernels import CONVOLUTIONS, DENSE, Kernel
from stdet_deploy_stm32.onnx_graph.view import Graph, Layer

BIAS_BYTES = 4
"""Biases are int32 on the device."""
_NON_PARAMETERS = {"Resize", "Reshape", "Slice", "Pad", "Split", "Gather", "Tile", "Expand", "Unsqueeze", "Squeeze",
                   "Clip", "ReduceMean", "ReduceSum", "TopK", "Transpose", "Upsample"}  # fmt: skip
"""Operators whose constants are settings (axes, sizes), compiled into code."""


@dataclass(frozen=True)
class KernelCost:
    """What one kernel costs.

    Attributes:
        parameters: weights and biases, elements.
        weights_bytes: of the int8 form: weights as wide as they are, 4 bytes a bias.
        macc: multiply-accumulates.
    """

    parameters: int
    weights_bytes: int
    macc: int


def macc(graph: Graph, layer: Layer) -> int:
    """Multiply-accumulates of one inference: dense count of Conv, ConvTranspose, Gemm and MatMul, plus one for each
    output element that gets a bias. Padding is counted like any pixel; all other operators count nothing.
    """
    products = products_of(graph, layer)
    return products + (graph.elements(layer.outputs[0]) if products and _bias(layer) else 0)


def products_of(graph: Graph, layer: Layer) -> int:
    """As `macc`, without the biases."""
    if layer.op_type in CONVOLUTIONS:
        kernel = graph.shapes[layer.inputs[1]]
        per_element = math.prod(kernel[1:])  # Conv: (out, in / groups, k...); ConvTranspose: (in, out / groups, k...)
        swept = layer.outputs[0] if layer.op_type == "Conv" else layer.inputs[0]
        return graph.elements(swept) * per_element
    if layer.op_type in DENSE:
        transposed = layer.op_type == "Gemm" and layer.attributes.get("transA", 0)
        return graph.elements(layer.outputs[0]) * layer.input_shapes[0][0 if transposed else -1]
    return 0


def _bias(layer: Layer) -> str:
    """Name of the bias input, empty when there is none."""
    return layer.inputs[2] if layer.op_type in (*CONVOLUTIONS, "Gemm") and len(layer.inputs) > 2 else ""


def costs(graph: Graph, steps: tuple[Kernel, ...]) -> list[KernelCost]:
    """The cost of each kernel.

    A weight that two layers share is counted with the first. A bias is stored for each, in steps of its own layer's input.
    """
    seen: set[str] = set()
    table = []
    for kernel in steps:
        parameters = size = 0
        for layer, name in stored_constants(graph, kernel):
            is_bias = name == _bias(layer) or (layer.op_type == "Add" and kernel.op_type in CONVOLUTIONS + DENSE)
            if name in seen and not is_bias:
                continue
            seen.add(name)
            parameters += graph.elements(name)
            size += graph.elements(name) * BIAS_BYTES if is_bias else graph.size(name)
        table.append(KernelCost(parameters, size, sum(macc(graph, layer) for layer in kernel.layers)))
    return table


def stored_constants(graph: Graph, kernel: Kernel) -> list[tuple[Layer, str]]:
    """The stored tensors of a kernel, each with the layer that reads it."""
    return [
        (layer, name)
        for layer in kernel.layers
        if layer.op_type not in _NON_PARAMETERS
        for name in layer.inputs
        if name in graph.constants
    ]
