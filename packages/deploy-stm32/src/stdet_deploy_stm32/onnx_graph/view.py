"""A plain view of an ONNX graph: static shapes, constants folded, quantization nodes, views and fused activations gone.

A float model and its QDQ form give the same view, so everything counted on it is the same for both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
from onnx import ModelProto, NodeProto, TensorProto, helper

from stdet.errors import ArtifactError, ModelError
from stdet.onnx_file import admit
from stdet_deploy_stm32.onnx_graph.folding import (
    Constant,
    Resolved,
    constants_of,
    resolve,
    unknown_operators,
    without_weights,
)

QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast"})
"""Operators whose output is the input's memory."""
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
FUSED = frozenset({"Relu", "Clip"})
"""Activations that an int8 kernel applies while it stores its result."""


@dataclass(frozen=True)
class Layer:
    """One operator that computes.

    Attributes:
        name: the node's name, or `<operator>_<index>`.
        op_type: ONNX operator.
        inputs, outputs: tensor names, after views and fused activations are looked through; empty for absent inputs.
        attributes: ONNX attributes as Python values.
        input_shapes: as the operator sees its inputs; a view in between may have changed them. Empty when unknown.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    input_shapes: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Graph:
    """The layers of a model in execution order.

    Attributes:
        inputs, outputs: names of the tensors that enter and leave.
        layers: what is computed.
        shapes: static shape by tensor name.
        bits: bits an element as deployed: 8 unless a QDQ model says otherwise (int16 activations, int4 weights).
        constants: names of the tensors that live in flash.
        quantized: tensors that the file stores or passes on as integers; empty for a float model.
        float_outputs: outputs that leave as floats, though they are computed as integers.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    shapes: Mapping[str, tuple[int, ...]]
    bits: Mapping[str, int]
    constants: frozenset[str]
    quantized: frozenset[str] = frozenset()
    float_outputs: tuple[str, ...] = ()

    def elements(self, name: str) -> int:
        """Number of elements of a tensor."""
        return math.prod(self.shapes[name])

    def size(self, name: str) -> int:
        """Bytes of a tensor as deployed."""
        return math.ceil(self.elements(name) * self.bits.get(name, 8) / 8)


def load_model(path: Path) -> ModelProto:
    """Read an ONNX file, its weights included.

    Raises:
        ArtifactError: as `stdet.onnx_file.admit`, or its weights lie in a file that isn't there.
    """
    admit(path)
    try:
        return onnx.load(path)
    except Exception as error:  # onnx raises its own kinds for weights beside the file that are missing or outside
        raise ArtifactError(
            f"{path}: its weights can't be read: {error}", "keep the file with the weights beside it"
        ) from error


def fix_batch(model: ModelProto) -> None:
    """Set a dynamic first dimension of inputs and outputs to 1, in place; forget inferred shapes that depend on it."""
    fixed = False
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            dims[0].dim_value = 1
            fixed = True
    if fixed:
        del model.graph.value_info[:]
        for value in model.graph.output:  # shape inference fills them in again
            value.type.tensor_type.ClearField("shape")


def dynamic_dimensions(model: ModelProto) -> list[str]:
    """`name[axis] = symbol` of each dimension of the model's inputs and outputs that has no number."""
    return [
        f"{value.name}[{axis}] = {dim.dim_param or '?'}"
        for value in (*model.graph.input, *model.graph.output)
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        if not dim.HasField("dim_value")
    ]


def read_graph(model: ModelProto) -> Graph:
    """The view of `model`; the model isn't changed.

    Raises:
        ModelError: a shape stays unknown, the graph has a cycle, or an operator isn't in the ONNX standard.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    constants = constants_of(model)
    inputs = tuple(value.name for value in model.graph.input if value.name not in constants)
    outputs = tuple(value.name for value in model.graph.output)
    light = without_weights(model)
    fix_batch(light)
    dynamic = [text for text in dynamic_dimensions(light) if text.partition("[")[0] in inputs]
    _refuse_unknown(list(light.graph.node))
    resolved = resolve(light, constants)
    floats = [v.name for v in model.graph.output if v.type.tensor_type.elem_type in _FLOATS]
    return _Reader(resolved, inputs, outputs).read(dynamic, floats)


def _refuse_unknown(nodes: list[NodeProto]) -> None:
    unknown = unknown_operators(nodes)
    if unknown:
        listed = "; ".join(
            f"{op} (node {', '.join(f'`{name}`' for name in names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''})"
            for op, names in sorted(unknown.items())
        )
        raise ModelError(
            f"operators that are not plain ONNX: {listed}",
            "export with standard operators only, and without If, Loop or Scan",
        )


class _Reader:
    """Walks the nodes once, in order, and keeps what computes."""

    def __init__(self, resolved: Resolved, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        self.nodes = resolved.nodes
        self.inputs, self.outputs = inputs, outputs
        self.shapes = resolved.shapes
        self.constants = resolved.constants
        self.bits = {name: constant.bits for name, constant in resolved.constants.items()}
        self.alias: dict[str, str] = {}
        self.layers: list[Layer] = []
        self.writer: dict[str, int] = {}
        self.quantized: set[str] = set()
        self.uses = Counter(name for node in self.nodes for name in node.input)
        self.uses.update(outputs)

    def read(self, dynamic: list[str], floats: list[str]) -> Graph:
        for index, node in enumerate(self.nodes):
            self.visit(index, node)
        outputs = tuple(self.find(name) for name in self.outputs)
        used = [name for layer in self.layers for name in (*layer.inputs, *layer.outputs) if name]
        for name in (*self.inputs, *used, *outputs):
            if name not in self.shapes:
                raise _not_static(name, self.layers, dynamic)
        return Graph(
            self.inputs, outputs, tuple(self.layers), self.shapes, self.bits, frozenset(self.constants),
            frozenset(self.quantized), tuple(self.find(name) for name in floats),
        )  # fmt: skip

    def find(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def visit(self, index: int, node: NodeProto) -> None:
        inputs = tuple(self.find(name) if name else "" for name in node.input)
        if node.op_type in QDQ:
            self.alias[node.output[0]] = inputs[0]
            self.quantized.add(inputs[0])
            zero = self.constants.get(inputs[2]) if len(inputs) > 2 else None
            if zero is not None and inputs[0] not in self.constants:
                self.bits[inputs[0]] = zero.bits
        elif inputs and all(name in self.constants for name in inputs if name):
            self.derive(node, inputs)
        elif node.op_type in VIEWS:
            self.alias[node.output[0]] = inputs[0]
        elif not self.fuse(node, inputs):
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            name = node.name or f"{node.op_type}_{index}"
            outputs = tuple(n for n in node.output if n)
            shapes = tuple(self.shapes.get(n, ()) for n in node.input)
            self.writer |= dict.fromkeys(outputs, len(self.layers))
            self.layers.append(Layer(name, node.op_type, inputs, outputs, attributes, shapes))

    def derive(self, node: NodeProto, inputs: tuple[str, ...]) -> None:
        """A constant made from constants, such as a transposed weight: its bits are those of what it is made from."""
        first = self.constants[inputs[0]]
        for name in filter(None, node.output):
            self.constants[name] = Constant(self.shapes.get(name, ()), first.data_type)
            self.bits[name] = self.bits[inputs[0]]

    def fuse(self, node: NodeProto, inputs: tuple[str, ...]) -> bool:
        """Make an activation or a batch norm part of the layer before, when nothing else reads that layer's result."""
        index = self.writer.get(inputs[0]) if inputs else None
        if index is None or self.uses[node.input[0]] != 1:
            return False
        before = self.layers[index]
        if node.op_type == "BatchNormalization" and before.op_type in ("Conv", "ConvTranspose"):
            if len(before.inputs) < 3:  # the shift becomes the bias; the scale disappears in the weights
                self.layers[index] = replace(before, inputs=(*before.inputs[:2], inputs[2]))
        elif node.op_type not in FUSED:
            return False
        self.alias[node.output[0]] = inputs[0]
        return True


def _not_static(name: str, layers: list[Layer], dynamic: list[str]) -> ModelError:
    """Names the first tensor whose shape isn't known, what writes it, and what to do."""
    writer = next((layer for layer in layers if name in layer.outputs), None)
    by = f", written by {writer.op_type} `{writer.name}`," if writer else ""
    if dynamic:
        return ModelError(
            f"the shape of tensor `{name}`{by} is not static: {', '.join(dynamic[:6])}",
            "export the model with a fixed input size; only the batch dimension may be dynamic",
        )
    return ModelError(
        f"the shape of tensor `{name}`{by} is not static: it depends on values that only a run knows",
        "export up to the raw outputs, without box decoding or NMS in the graph",
    )
