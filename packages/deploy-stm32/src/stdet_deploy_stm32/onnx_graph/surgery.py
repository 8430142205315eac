"""Small edits of ONNX graphs that keep the graph valid."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from stdet.onnx_file import computing_order
from stdet_deploy_stm32.onnx_graph.view import QDQ


def initializers(model: ModelProto) -> dict[str, TensorProto]:
    """Constants by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def producers(model: ModelProto) -> dict[str, NodeProto]:
    """The node that writes each tensor."""
    return {name: node for node in model.graph.node for name in node.output if name}


def consumers(model: ModelProto) -> dict[str, list[NodeProto]]:
    """The nodes that read each tensor."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def graph_inputs(model: ModelProto) -> list[ValueInfoProto]:
    """Inputs that a caller feeds; older files list their constants among the inputs."""
    constants = initializers(model)
    return [value for value in model.graph.input if value.name not in constants]


def float_activations(model: ModelProto) -> list[ValueInfoProto]:
    """Float tensors that depend on the input, the input included; needs inferred shapes."""
    values = {v.name: v for v in (*graph_inputs(model), *model.graph.value_info, *model.graph.output)}
    names = [v.name for v in graph_inputs(model)] + [name for node in model.graph.node for name in node.output]
    return [values[n] for n in names if n in values and values[n].type.tensor_type.elem_type == TensorProto.FLOAT]


def redirect(model: ModelProto, old: str, new: str) -> None:
    """Let all that read tensor `old` read `new`."""
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def dequantized(dq: NodeProto, model: ModelProto) -> np.ndarray:
    """The values of the weight or bias that `dq` reads: float32, in the stored one's shape."""
    constants = initializers(model)
    stored, scale = (numpy_helper.to_array(constants[name]).astype(np.float32) for name in dq.input[:2])
    zero = numpy_helper.to_array(constants[dq.input[2]]).astype(np.float32) if len(dq.input) > 2 else np.float32(0)
    axis = next((a.i for a in dq.attribute if a.name == "axis"), 1)
    if scale.ndim:
        shape = [-1 if i == axis % stored.ndim else 1 for i in range(stored.ndim)]
        scale, zero = scale.reshape(shape), np.broadcast_to(zero, scale.shape).reshape(shape)
    return np.asarray((stored - zero) * scale, np.float32)


def add_constant(model: ModelProto, name: str, value: np.ndarray) -> str:
    """Add `value`, of any shape, under `name`, or under `name_1`, … when that is taken; returns the name used."""
    taken = initializers(model).keys() | producers(model).keys() | {v.name for v in model.graph.input}
    unique = _free_name(name, taken)
    model.graph.initializer.append(numpy_helper.from_array(value, unique))
    return unique


def _free_name(name: str, taken: Collection[str]) -> str:
    """`name`, or `name_1`, … when that is taken."""
    unique, count = name, 0
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    return unique


def prune(model: ModelProto) -> None:
    """Drop nodes whose results nobody reads, then constants and shape records that nobody names."""
    outputs = {value.name for value in model.graph.output}
    while True:
        readers = consumers(model)
        dead = [n for n in model.graph.node if not any(name in readers or name in outputs for name in n.output)]
        if not dead:
            break
        _keep(model.graph.node, lambda node, dead=dead: not any(node is d for d in dead))
    readers = consumers(model)
    _keep(model.graph.initializer, lambda tensor: tensor.name in readers or tensor.name in outputs)
    written = producers(model)
    _keep(model.graph.value_info, lambda value: value.name in written and value.name not in outputs)


def _keep(field: Any, wanted: Callable[..., bool]) -> None:
    for index in reversed(range(len(field))):
        if not wanted(field[index]):
            del field[index]


def sort_nodes(model: ModelProto) -> None:
    """Bring the nodes into an order in which each follows what it reads; the present order decides where it can.

    Raises:
        ValueError: they can't be ordered.
    """
    order, left = computing_order(model.graph.node)
    if left is not None:
        raise ValueError(f"the graph has a cycle at node {model.graph.node[left].name}")
    copies = [NodeProto.FromString(model.graph.node[index].SerializeToString()) for index in order]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def own_constants(model: ModelProto) -> None:
    """Give each operator that computes with a stored constant its own copy, and its own DequantizeLinear, in place.

    Inputs of different scales can't share an integer bias; and where two operators read one quantized constant,
    onnxruntime (1.20 to 1.32, `session.x64quantprecision` with extended optimizations) fails with "Attempt to replace the
    existing tensor". Integer constants (axes, sizes) stay shared.
    """
    stored, makers = initializers(model), producers(model)
    taken_names = {*stored, *makers, *(value.name for value in model.graph.input)}
    taken: set[str] = set()

    def copy(name: str) -> str:
        unique = _free_name(name, taken_names)
        taken_names.add(unique)
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(stored[name])
        tensor.name = unique
        return unique

    for node in list(model.graph.node):
        if node.op_type in QDQ:
            continue
        for index, name in enumerate(node.input):
            maker = makers.get(name)
            dequantizes = (
                maker is not None and maker.op_type == "DequantizeLinear" and stored.keys() >= set(maker.input)
            )
            if not dequantizes and (name not in stored or stored[name].data_type != TensorProto.FLOAT):
                continue
            if name not in taken:
                taken.add(name)
            elif maker is None:
                node.input[index] = copy(name)
            else:
                own = NodeProto.FromString(maker.SerializeToString())
                own.input[:] = [copy(part) for part in maker.input]
                own.output[0] = _free_name(name, taken_names)
                own.name = f"{maker.name}/{own.output[0]}"
                taken_names.add(own.output[0])
                node.input[index] = own.output[0]
                model.graph.node.insert(0, own)  # it reads constants only


def opset(model: ModelProto) -> int:
    """Version of the standard operator set."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def is_quantized(model: ModelProto) -> bool:
    """Whether the graph holds quantized operators already."""
    return any(
        n.op_type in QDQ or n.op_type.startswith("QLinear") or n.op_type.endswith("Integer") for n in model.graph.node
    )
