"""Static shapes of every tensor. Constants are folded first, so that the shape arithmetic of exporters hides none.

Weights are left out of all the work: their values aren't needed, and they are nearly all of a file's bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from stdet.errors import ModelError
from stdet.onnx_file import computing_order

VALUE_LIMIT = 4096
"""Elements; larger constants are weights, of which only shape and type are kept."""
MAX_NODES = 50_000
_MAX_ROUNDS = 32
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
_STANDARD = frozenset({"", "ai.onnx"})
_NEVER_GROW = frozenset({
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Div", "Equal", "Floor", "Gather", "Greater", "Identity", "Less", "Max",
    "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round",
    "Shape", "Size", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
"""Operators on small constants whose result is small too."""
_BITS = {
    TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT8: 8, TensorProto.UINT8: 8,
    TensorProto.INT16: 16, TensorProto.UINT16: 16, TensorProto.INT32: 32,
}  # fmt: skip


@dataclass(frozen=True)
class Constant:
    """A tensor that doesn't depend on the input.

    Attributes:
        shape: static.
        data_type: `TensorProto` number.
        value: None when there are more than `VALUE_LIMIT` elements.
    """

    shape: tuple[int, ...]
    data_type: int
    value: np.ndarray | None = None

    @property
    def bits(self) -> int:
        """Bits an element as deployed; floats become int8."""
        return _BITS.get(self.data_type, 8)


@dataclass(frozen=True)
class Resolved:
    """A graph with its constants folded.

    Attributes:
        nodes: what is left to compute, each after what it reads.
        shapes: by tensor, where static.
        constants: by tensor.
    """

    nodes: list[NodeProto]
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, Constant]


def constants_of(model: ModelProto) -> dict[str, Constant]:
    """The stored constants of a model."""
    return {tensor.name: _constant(tensor) for tensor in model.graph.initializer}


def resolve(light: ModelProto, constants: dict[str, Constant]) -> Resolved:
    """Fold the constants of a graph and infer its shapes.

    Args:
        light: as `without_weights` makes it; it is changed.
        constants: of the whole model.

    Raises:
        ModelError: shapes or types that contradict each other.
    """
    for _ in range(_MAX_ROUNDS):
        inferred = _infer(light)
        values = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)}
        shapes = {name: shape for name, value in values.items() if (shape := _static(value)) is not None}
        shapes |= {name: constant.shape for name, constant in constants.items()}
        folded = dict(_folded(light.graph.node, constants, shapes, light.opset_import))
        if not folded:
            break
        constants |= folded
        shapes |= {name: constant.shape for name, constant in folded.items()}
        _replace(light, folded)
    return Resolved(list(light.graph.node), shapes, constants)


def _infer(light: ModelProto) -> ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(light, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"the graph contradicts itself: {str(error).splitlines()[0]}") from error


def in_order(nodes: list[NodeProto], known: set[str]) -> list[NodeProto]:
    """The nodes, each after what it reads; the present order decides where it can.

    Args:
        known: tensors that are there from the start.

    Raises:
        ModelError: a cycle, or a tensor that two nodes write or that nothing writes.
    """
    written: set[str] = set()
    for node in nodes:
        for name in filter(None, node.output):
            if name in written or name in known:
                raise ModelError(f"tensor `{name}` is written twice, the second time by node `{_name(node)}`")
            written.add(name)
    for node in nodes:
        missing = next((name for name in node.input if name and name not in written and name not in known), None)
        if missing:
            raise ModelError(f"node `{_name(node)}` reads `{missing}`, which nothing writes")
    order, left = computing_order(nodes)
    if left is not None:
        raise ModelError(f"the graph has a cycle at node `{_name(nodes[left])}`")
    return [nodes[index] for index in order]


def unknown_operators(nodes: list[NodeProto]) -> dict[str, list[str]]:
    """Operators that aren't in the ONNX standard, or that hold graphs of their own: names of their nodes, by operator."""
    found: dict[str, list[str]] = {}
    for node in nodes:
        standard = node.domain in _STANDARD and onnx.defs.has(node.op_type)
        if not standard or any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            found.setdefault(f"{node.domain}.{node.op_type}".lstrip("."), []).append(_name(node))
    return found


def _name(node: NodeProto) -> str:
    return node.name or next(iter(node.output), node.op_type)


def _constant(tensor: TensorProto) -> Constant:
    shape = tuple(tensor.dims)
    small = math.prod(shape) <= VALUE_LIMIT and tensor.data_location != TensorProto.EXTERNAL
    return Constant(shape, tensor.data_type, numpy_helper.to_array(tensor) if small else None)


def without_weights(model: ModelProto) -> ModelProto:
    """A copy of the graph, its nodes in order; of large constants only shape and type are left, as inputs.

    Raises:
        ModelError: a cycle, a tensor written twice or never, or too many nodes.
    """
    if len(model.graph.node) > MAX_NODES:
        raise ModelError(f"the graph has {len(model.graph.node)} nodes; at most {MAX_NODES} are read")
    light = ModelProto(ir_version=max(model.ir_version, 4))
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = "light"
    constants = {tensor.name for tensor in model.graph.initializer}
    graph.input.extend(value for value in model.graph.input if value.name not in constants)
    graph.output.extend(model.graph.output)
    known = constants | {value.name for value in graph.input}
    graph.node.extend(in_order(list(model.graph.node), known))
    graph.value_info.extend(value for value in model.graph.value_info if value.name not in constants)
    for node in graph.node:
        if node.op_type in _QDQ:
            node.domain = ""  # Microsoft's are the standard ones under another name; let shape inference know them
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= VALUE_LIMIT:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return light


def _static(value: onnx.ValueInfoProto) -> tuple[int, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        return None
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _folded(
    nodes: Iterator[NodeProto], constants: Mapping[str, Constant], shapes: Mapping[str, tuple[int, ...]], opsets: object
) -> Iterator[tuple[str, Constant]]:
    """The results of all nodes that can be computed without the input, in order."""
    found: dict[str, Constant] = {}
    for node in nodes:
        if node.op_type in ("Shape", "Size") and node.input[0] in shapes:
            results = [_shape_of(node, shapes[node.input[0]])]
        elif node.op_type == "Constant":
            results = _evaluate(node, {}, opsets)
        elif node.op_type in _QDQ or not node.input or not any(node.input):
            continue  # quantization says how many bits a constant has; a node without inputs may be random
        else:
            given = {n: found.get(n) or constants.get(n) for n in node.input if n}
            ready = {n: c.value for n, c in given.items() if c is not None and c.value is not None}
            if len(ready) < len(given) or not _stays_small(node, ready, shapes):
                continue
            results = _evaluate(node, ready, opsets)
        for name, value in zip((n for n in node.output if n), results, strict=False):
            found[name] = Constant(value.shape, helper.np_dtype_to_tensor_dtype(value.dtype), _small(value))
    yield from found.items()


def _small(value: np.ndarray) -> np.ndarray | None:
    return value if value.size <= VALUE_LIMIT else None


def _shape_of(node: NodeProto, shape: tuple[int, ...]) -> np.ndarray:
    if node.op_type == "Size":
        return np.array(math.prod(shape), np.int64)
    start, end = (next((a.i for a in node.attribute if a.name == key), None) for key in ("start", "end"))
    return np.array(shape[start:end], np.int64)


def _stays_small(node: NodeProto, values: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the result is known to have few elements, before any is computed."""
    known = [shapes.get(name) for name in node.output if name]
    if all(shape is not None and math.prod(shape) <= VALUE_LIMIT for shape in known):
        return True
    inputs = [values[name] for name in node.input if name in values]
    if node.op_type == "Range":
        start, limit, delta = (float(v) for v in inputs)
        return delta != 0 and (limit - start) / delta <= VALUE_LIMIT
    if node.op_type == "ConstantOfShape":
        return math.prod(int(v) for v in inputs[0]) <= VALUE_LIMIT
    if node.op_type in ("Expand", "Tile"):
        return inputs[0].size * math.prod(max(1, int(v)) for v in inputs[1]) <= VALUE_LIMIT
    return node.op_type in _NEVER_GROW and sum(v.size for v in inputs) <= VALUE_LIMIT


def _evaluate(node: NodeProto, values: Mapping[str, np.ndarray], opsets: object) -> list[np.ndarray]:
    """The node's results; none when it can't be computed, and then shape inference has to do without."""
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph([node], "fold", [], outputs, tensors)
    try:
        results = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, {})
    except Exception:  # whatever numpy raises on attributes or shapes that don't go together
        return []
    return [np.asarray(result) for result in results]


def _replace(light: ModelProto, folded: Mapping[str, Constant]) -> None:
    """Take the nodes whose results are known out of the graph; small results stay as constants."""
    kept = [node for node in light.graph.node if not any(name in folded for name in node.output if name)]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    del light.graph.node[:]
    light.graph.node.extend(copies)
    records = [v for v in light.graph.value_info if v.name not in folded]
    copied = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in records]
    del light.graph.value_info[:]
    light.graph.value_info.extend(copied)
    for name, constant in folded.items():
        if constant.value is not None:
            light.graph.initializer.append(numpy_helper.from_array(constant.value, name))
        else:
            light.graph.input.append(helper.make_tensor_value_info(name, constant.data_type, list(constant.shape)))
