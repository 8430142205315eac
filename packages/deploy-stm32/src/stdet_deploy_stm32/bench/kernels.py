"""What a compiler makes of the layers: one kernel each, with activations and padding taken into the layer beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stdet_deploy_stm32.onnx_graph.view import Graph, Layer

CONVOLUTIONS = ("Conv", "ConvTranspose")
DENSE = ("Gemm", "MatMul")
GATE = "Gate"
"""`x * sigmoid(x)` or `x * hardsigmoid(x)`: SiLU and hard-swish."""
POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
_LEAKY = ("LeakyRelu", "PRelu")


@dataclass(frozen=True)
class Kernel:
    """One step of an inference on the device.

    Attributes:
        name: of its first node.
        op_type: ONNX operator, or `Gate`.
        inputs: the activations that it reads; `outputs`: that it writes.
        layers: what it is made of, the layer that gives `op_type` first.
        leaky: a LeakyRelu or PRelu is part of it.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    leaky: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def weight_shape(self, graph: Graph) -> tuple[int, ...] | None:
        """Of the stored weight of a convolution or a dense layer; None where there is none."""
        layer = self.layers[0]
        if self.op_type not in CONVOLUTIONS + DENSE:
            return None
        stored = next((name for name in layer.inputs[:2] if name in graph.constants), None)
        return graph.shapes[stored] if stored else None

    def is_depthwise(self, graph: Graph) -> bool:
        """Whether each output channel reads one input channel."""
        shape = self.weight_shape(graph)
        return self.op_type == "Conv" and self.attributes.get("group", 1) > 1 and shape is not None and shape[1] == 1


def kernels(graph: Graph, merge_padding: bool = False) -> tuple[Kernel, ...]:
    """The kernels of a graph, in execution order. A layer that reads constants only isn't one.

    Args:
        merge_padding: padding that a convolution or a pool alone reads is done by it, as on Cortex-M; the NPU moves it.
    """
    return _Merger(graph, merge_padding).merge()


class _Merger:
    def __init__(self, graph: Graph, merge_padding: bool) -> None:
        self.graph = graph
        self.merge_padding = merge_padding
        self.readers: dict[str, list[Layer]] = {}
        for layer in graph.layers:
            for name in dict.fromkeys(layer.inputs):
                self.readers.setdefault(name, []).append(layer)
        self.alias: dict[str, str] = {}
        self.made: list[Kernel] = []
        self.writer: dict[str, int] = {}
        self.done: set[int] = set()

    def merge(self) -> tuple[Kernel, ...]:
        for layer in self.graph.layers:
            if id(layer) not in self.done:
                self.visit(layer)
        return tuple(self.made)

    def visit(self, layer: Layer) -> None:
        inputs = tuple(self.find(name) for name in layer.inputs if name and name not in self.graph.constants)
        if not inputs or self.taken_after(layer, inputs[0]) or self.taken_before(layer, inputs[0]):
            return
        product = self.gated(layer)
        if product is not None:
            self.done.add(id(product))
            self.add(Kernel(layer.name, GATE, inputs, product.outputs, (layer, product)))
        else:
            self.add(Kernel(layer.name, layer.op_type, inputs, layer.outputs, (layer,), attributes=layer.attributes))

    def find(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def add(self, kernel: Kernel) -> None:
        self.writer |= dict.fromkeys(kernel.outputs, len(self.made))
        self.made.append(kernel)

    def only_reader(self, name: str) -> Layer | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.graph.outputs else None

    def taken_after(self, layer: Layer, source: str) -> bool:
        """A LeakyRelu, PRelu or bias that alone reads a result becomes part of what wrote it."""
        index = self.writer.get(source)
        if index is None or not any(self.only_reader(name) is layer for name in layer.inputs):
            return False
        before = self.made[index]
        leaky = layer.op_type in _LEAKY
        if not leaky and not (layer.op_type == "Add" and self.is_bias(layer, before)):
            return False
        self.made[index] = replace(before, layers=(*before.layers, layer), leaky=before.leaky or leaky)
        self.alias[layer.outputs[0]] = source
        return True

    def is_bias(self, layer: Layer, before: Kernel) -> bool:
        """Whether `layer` adds one constant a channel to a convolution or dense layer that has no bias."""
        constants = [name for name in layer.inputs if name in self.graph.constants]
        channels = self.graph.shapes[before.outputs[0]][-1 if before.op_type in DENSE else 1]
        has_bias = len(before.layers) > 1 or len(before.layers[0].inputs) > 2
        return (
            before.op_type in CONVOLUTIONS + DENSE
            and not has_bias
            and len(constants) == 1
            and self.graph.elements(constants[0]) == channels
        )

    def taken_before(self, layer: Layer, source: str) -> bool:
        """Padding that a convolution or a pool alone reads is done by it."""
        if not self.merge_padding or layer.op_type != "Pad":
            return False
        reader = self.only_reader(layer.outputs[0])
        if reader is None or reader.op_type not in CONVOLUTIONS + POOLS:
            return False
        self.alias[layer.outputs[0]] = source
        return True

    def gated(self, layer: Layer) -> Layer | None:
        """The product of `layer`, a sigmoid, with its own input."""
        if layer.op_type not in ("Sigmoid", "HardSigmoid"):
            return None
        reader = self.only_reader(layer.outputs[0])
        return reader if reader and reader.op_type == "Mul" and layer.inputs[0] in reader.inputs else None
