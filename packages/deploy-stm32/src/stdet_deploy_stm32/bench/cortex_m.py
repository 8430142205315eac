"""A network on a Cortex-M core, without NPU: RAM and what takes time. The rules are ours (see docs/boards.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from stdet_deploy_stm32.bench.kernels import CONVOLUTIONS, DENSE, GATE, Kernel
from stdet_deploy_stm32.bench.liveness import Moment, moments
from stdet_deploy_stm32.bench.macc import products_of
from stdet_deploy_stm32.bench.neural_art import streamed
from stdet_deploy_stm32.onnx_graph.view import Graph

COUNTS = ("pointwise_products", "spatial_products", "depthwise_products", "convolution_outputs", "gate_elements",
          "leaky_elements")  # fmt: skip
"""What takes time, in the order of `counts`."""
_GATES = (GATE, "Sigmoid", "Tanh", "HardSwish", "HardSigmoid")
_IN_PLACE = ("Add", "Sub", "Mul", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Relu", "Clip", "LeakyRelu", "PRelu")


def peak_bytes(graph: Graph, steps: Sequence[Kernel]) -> tuple[int, list[int]]:
    """(RAM that activations need, bytes alive at each kernel and at the end).

    A convolution or dense layer writes over an input that nobody reads later, and so do element-wise operators; depthwise
    layers, pools and gates (whose sigmoid needs room beside what it is multiplied with) don't. The result of a dense
    convolution that a MaxPool alone reads is pooled as it is made.

    Raises:
        ModelError: see `liveness.moments`.
    """
    through_pool = streamed(graph, steps)
    series = [
        sum(moment.alive.values()) - _shared(graph, moment, through_pool)
        for moment in moments(graph, steps, unbuffered=through_pool)
    ]
    return max(series), series


def _shared(graph: Graph, moment: Moment, through_pool: frozenset[str]) -> int:
    """Bytes that the kernel's result shares with an input that dies."""
    kernel = moment.kernel
    if kernel is None or kernel.is_depthwise(graph) or kernel.outputs[0] in through_pool:
        return 0
    if kernel.op_type not in (*CONVOLUTIONS, *DENSE, *_IN_PLACE):
        return 0
    dying = [moment.alive[name] for name in kernel.inputs if name in moment.dies and name in moment.alive]
    return min(max(dying, default=0), moment.alive.get(kernel.outputs[0], 0))


def counts(graph: Graph, kernel: Kernel) -> tuple[float, ...]:
    """How much of each of `COUNTS` a kernel has."""
    shape = kernel.weight_shape(graph)
    out = float(sum(graph.elements(name) for name in kernel.outputs))
    pointwise = spatial = depthwise = written = 0.0
    if shape is not None:
        products = float(products_of(graph, kernel.layers[0]))
        if kernel.is_depthwise(graph):
            depthwise = products
        elif kernel.op_type in CONVOLUTIONS and math.prod(shape[2:]) > 1:
            spatial, written = products, out
        else:
            pointwise, written = products, out if kernel.op_type in CONVOLUTIONS else 0.0
    gates = out if kernel.op_type in _GATES else 0.0
    return (pointwise, spatial, depthwise, written, gates, out if kernel.leaky else 0.0)
