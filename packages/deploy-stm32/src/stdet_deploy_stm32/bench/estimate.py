"""Memory and arithmetic of a model, counted from its graph. No latency: these numbers need no board and no tool."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stdet.artifacts import sha256_file
from stdet.interfaces.deploy import BenchReport
from stdet_deploy_stm32 import __version__
from stdet_deploy_stm32.bench.arena import plan
from stdet_deploy_stm32.boards import Board
from stdet_deploy_stm32.onnx_graph.view import Graph, Layer, load_model, read_graph

BIAS_BYTES = 4
"""Biases are int32 on the device."""

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_DENSE = ("Gemm", "MatMul")


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs.

    Attributes:
        name, op_type: of the layer.
        output_shape: of its first output.
        parameters: weights and biases, elements.
        weights_bytes: flash.
        macc: multiply-accumulates.
    """

    name: str
    op_type: str
    output_shape: tuple[int, ...]
    parameters: int
    weights_bytes: int
    macc: int


def macc(graph: Graph, layer: Layer) -> int:
    """Multiply-accumulates of one inference: dense count of Conv, ConvTranspose, Gemm and MatMul, plus one for each
    output element that gets a bias. Padding is counted like any pixel; all other operators count nothing.
    """
    if layer.op_type in _CONVOLUTIONS:
        kernel = graph.shapes[layer.inputs[1]]
        per_element = math.prod(kernel[1:])  # Conv: (out, in / groups, k...); ConvTranspose: (in, out / groups, k...)
        swept = layer.outputs[0] if layer.op_type == "Conv" else layer.inputs[0]
        products = graph.elements(swept) * per_element
    elif layer.op_type in _DENSE:
        transposed = layer.op_type == "Gemm" and layer.attributes.get("transA", 0)
        summed = layer.input_shapes[0][0 if transposed else -1]
        products = graph.elements(layer.outputs[0]) * summed
    else:
        return 0
    return products + (graph.elements(layer.outputs[0]) if _bias(layer) else 0)


def _bias(layer: Layer) -> str:
    """Name of the bias input, empty when there is none."""
    return layer.inputs[2] if layer.op_type in (*_CONVOLUTIONS, "Gemm") and len(layer.inputs) > 2 else ""


_NON_PARAMETERS = {"Resize", "Reshape", "Slice", "Pad", "Split", "Gather", "Tile", "Expand", "Unsqueeze", "Squeeze",
                   "Clip", "ReduceMean", "ReduceSum", "TopK", "Transpose", "Upsample"}  # fmt: skip
"""Operators whose constants are settings (axes, sizes), compiled into code."""


def layer_costs(graph: Graph) -> list[LayerCost]:
    """The table of layers, in execution order. A tensor that two layers share is counted with the first."""
    seen: set[str] = set()
    table = []
    for layer in graph.layers:
        parameters = size = 0
        for name in layer.inputs:
            if name not in graph.constants or name in seen or layer.op_type in _NON_PARAMETERS:
                continue
            seen.add(name)
            parameters += graph.elements(name)
            size += graph.elements(name) * BIAS_BYTES if name == _bias(layer) else graph.size(name)
        shape = graph.shapes[layer.outputs[0]]
        table.append(LayerCost(layer.name, layer.op_type, shape, parameters, size, macc(graph, layer)))
    return table


def estimate(path: Path, board: Board) -> BenchReport:
    """Parameters, int8 weights, MACC and peak activations of a float or QDQ ONNX file.

    Weights are int8 elements plus 4 bytes a bias: exact for the published MobileNetV2 rows of the STM32 model zoo on
    STM32H7, 1 to 22 % below what the STM32N6 compiler stores. Activations are the smallest arena that a greedy planner
    reaches, model inputs and outputs included: within 15 % of published STM32H7 figures; the STM32N6 compiler fills its
    banks and reports up to twice as much.

    Raises:
        ArtifactError: not a readable ONNX file.
        ModelError: shapes aren't static.
    """
    graph = read_graph(load_model(path))
    table = layer_costs(graph)
    arena = plan(graph)
    weights = sum(row.weights_bytes for row in table)
    return BenchReport(
        model=path.name,
        sha256=sha256_file(path),
        backend="estimate",
        tool="stdet-deploy-stm32",
        version=__version__,
        parameters=sum(row.parameters for row in table),
        weights_bytes=weights,
        activations_bytes=arena.size,
        io_bytes=sum(graph.size(name) for name in {*graph.inputs, *graph.outputs}),
        macc=sum(row.macc for row in table),
        device=board.title,
        notes=board.fit(weights, arena.size),
        details=_details(board, table, arena.lower_bound, arena.worst_layer),
    )


def _details(board: Board, table: list[LayerCost], lower_bound: int, worst_layer: str) -> dict[str, Any]:
    return {
        "board": board.name,
        "activations_lower_bound_bytes": lower_bound,
        "largest_at_layer": worst_layer,
        "layers": [
            {
                "name": row.name,
                "op_type": row.op_type,
                "output_shape": list(row.output_shape),
                "parameters": row.parameters,
                "weights_bytes": row.weights_bytes,
                "macc": row.macc,
            }
            for row in table
        ],
    }
