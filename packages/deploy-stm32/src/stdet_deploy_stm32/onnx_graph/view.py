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

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from stdet.errors import ArtifactError, ModelError
from stdet.onnx_file import admit

QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast"})
"""Operators whose output is the input's memory."""
FUSED = frozenset({"Relu", "Clip"})
"""Activations that an int8 kernel applies while it stores its result."""

_FOLD_LIMIT = 4096  # elements; larger constants are weights, not shape arithmetic
_INT_BITS = {
    TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT8: 8, TensorProto.UINT8: 8,
    TensorProto.INT16: 16, TensorProto.UINT16: 16, TensorProto.INT32: 32,
}  # fmt: skip


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
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    shapes: Mapping[str, tuple[int, ...]]
    bits: Mapping[str, int]
    constants: frozenset[str]

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
        ModelError: a shape stays unknown.
    """
    model = ModelProto.FromString(model.SerializeToString())
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    fix_batch(model)
    _strip_quantization_shapes(model)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return _Reader(model).read()


def _strip_quantization_shapes(model: ModelProto) -> None:
    """Q/DQ nodes of Microsoft's domain are the standard ones under another name; let shape inference know them."""
    for node in model.graph.node:
        if node.op_type in QDQ:
            node.domain = ""


class _Reader:
    """Walks the nodes once, in order, and keeps what computes."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.alias: dict[str, str] = {}
        self.layers: list[Layer] = []
        self.shapes = {
            value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
            if value.type.tensor_type.HasField("shape")
            and all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
        }
        self.constants: dict[str, TensorProto] = {}
        self.bits: dict[str, int] = {}
        for tensor in model.graph.initializer:
            self.add_constant(tensor.name, tensor)
        self.uses = Counter(name for node in model.graph.node for name in node.input)
        self.uses.update(value.name for value in model.graph.output)

    def read(self) -> Graph:
        for index, node in enumerate(self.model.graph.node):
            self.visit(index, node)
        outputs = tuple(self.find(value.name) for value in self.model.graph.output)
        inputs = tuple(value.name for value in self.model.graph.input)
        used = {name for layer in self.layers for name in (*layer.inputs, *layer.outputs) if name}
        for name in sorted(used.union(inputs, outputs)):
            if name not in self.shapes:
                raise ModelError(
                    f"the shape of tensor `{name}` is not static",
                    "export the model with a fixed input size; only the batch dimension may be dynamic",
                )
        return Graph(inputs, outputs, tuple(self.layers), self.shapes, self.bits, frozenset(self.constants))

    def find(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def add_constant(self, name: str, tensor: TensorProto) -> None:
        self.constants[name] = tensor
        self.shapes[name] = tuple(tensor.dims)
        self.bits[name] = _INT_BITS.get(tensor.data_type, 8)

    def visit(self, index: int, node: NodeProto) -> None:
        inputs = tuple(self.find(name) if name else "" for name in node.input)
        if node.op_type in QDQ:
            self.alias[node.output[0]] = inputs[0]
            zero = self.constants.get(inputs[2]) if len(inputs) > 2 else None
            if zero is not None and inputs[0] not in self.constants:
                self.bits[inputs[0]] = _INT_BITS[zero.data_type]
        elif node.op_type == "Constant" or self.is_shape_arithmetic(node, inputs):
            self.fold(node, inputs)
        elif node.op_type in VIEWS and inputs[0] not in self.constants:
            self.alias[node.output[0]] = inputs[0]
        elif not self.fuse(node, inputs):
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            name = node.name or f"{node.op_type}_{index}"
            outputs = tuple(n for n in node.output if n)
            shapes = tuple(self.shapes.get(n, ()) for n in node.input)
            self.layers.append(Layer(name, node.op_type, inputs, outputs, attributes, shapes))

    def fuse(self, node: NodeProto, inputs: tuple[str, ...]) -> bool:
        """Make an activation or a batch norm part of the layer before, when nothing else reads that layer's result."""
        index = next((i for i in reversed(range(len(self.layers))) if inputs[0] in self.layers[i].outputs), None)
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

    def is_shape_arithmetic(self, node: NodeProto, inputs: tuple[str, ...]) -> bool:
        if node.op_type == "Shape":
            return inputs[0] in self.shapes
        return bool(inputs) and all(
            not name or (name in self.constants and math.prod(self.shapes[name]) <= _FOLD_LIMIT) for name in inputs
        )

    def fold(self, node: NodeProto, inputs: tuple[str, ...]) -> None:
        if node.op_type == "Shape":
            start, end = (next((a.i for a in node.attribute if a.name == key), None) for key in ("start", "end"))
            results = [np.array(self.shapes[inputs[0]][start:end], np.int64)]
        else:
            graph = helper.make_graph(
                [node], "fold", [], [helper.make_empty_tensor_value_info(name) for name in node.output if name],
                [_named(self.constants[i], n) for i, n in zip(inputs, node.input, strict=True) if n],
            )  # fmt: skip
            single = helper.make_model(graph, opset_imports=self.model.opset_import)
            results = list(ReferenceEvaluator(single).run(None, {}))
        for name, value in zip((n for n in node.output if n), results, strict=True):
            self.add_constant(name, numpy_helper.from_array(np.asarray(value), name))


def _named(tensor: TensorProto, name: str) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy
