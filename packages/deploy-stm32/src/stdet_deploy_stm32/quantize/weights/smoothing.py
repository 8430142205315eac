"""SmoothQuant: move the difficulty of a channel from the activation to the weight that reads it.

Xiao et al., "SmoothQuant" (2023): the activation is divided and the weight multiplied, channel by channel, by
`max|x| ** alpha / max|w| ** (1 - alpha)`. The function of the network stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.session import watching
from stdet_deploy_stm32.onnx_graph.surgery import (
    add_constant,
    consumers,
    graph_inputs,
    initializers,
    producers,
    sort_nodes,
)
from stdet_deploy_stm32.quantize.images import images


@dataclass(frozen=True)
class _Reader:
    """A node that multiplies an activation with a constant weight, and how the weight's axes lie.

    Attributes:
        node: Conv, Gemm or MatMul.
        depthwise: filters read one input channel each, in order.
        axis: of the input channels in the weight; unused when depthwise.
    """

    node: NodeProto
    depthwise: bool
    axis: int

    def channel_peaks(self, weight: np.ndarray, channels: int) -> np.ndarray:
        """max|w| by input channel."""
        if self.depthwise:
            return np.abs(weight).reshape(channels, -1).max(axis=1)
        others = tuple(i for i in range(weight.ndim) if i != self.axis)
        return np.asarray(np.abs(weight).max(axis=others))

    def scaled(self, weight: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """The weight with input channel c multiplied by factors[c]."""
        if self.depthwise:
            return (weight.reshape(len(factors), -1) * factors[:, None]).reshape(weight.shape)
        return weight * factors.reshape([-1 if i == self.axis else 1 for i in range(weight.ndim)])


def smooth(model: ModelProto, data: CalibrationData, alpha: float, folding: bool) -> ModelProto:
    """A model with the same function and flatter activations.

    Args:
        alpha: 0..1, the share that moves into the weights.
        folding: put the division into the convolution before, where it is the only source; else, and everywhere when
            False, a Mul is inserted.
    """
    result = ModelProto()
    result.CopyFrom(model)
    readers = _readers(result)
    peaks = _activation_peaks(result, data, {name: group[0].node.op_type for name, group in readers.items()})
    for name, group in readers.items():
        x = peaks[name]
        w = np.max([reader.channel_peaks(_weight(result, reader.node), len(x)) for reader in group], axis=0)
        usable = (x > 0) & (w > 0)
        factors = np.ones(len(x), np.float32)
        factors[usable] = x[usable] ** alpha / w[usable] ** (1 - alpha)
        if not (folding and _fold(result, name, group, factors)):
            _insert(result, name, group, factors)
        for reader in group:
            _replace(result, reader.node.input[1], reader.scaled(_weight(result, reader.node), factors))
    sort_nodes(result)
    return shape_inference.infer_shapes(result)


def _readers(model: ModelProto) -> dict[str, list[_Reader]]:
    """Readers by activation. A weight that two nodes share is left alone."""
    constants, uses = initializers(model), consumers(model)
    found: dict[str, list[_Reader]] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[0] in constants:
            continue
        tensor = constants.get(node.input[1])
        if tensor is None or tensor.data_type != TensorProto.FLOAT or len(uses[node.input[1]]) > 1:
            continue
        weight = _weight(model, node)
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        groups = attributes.get("group", 1)
        if (groups > 1 and weight.shape[1] > 1) or attributes.get("transA", 0) or weight.ndim < 2:
            continue
        axis = 1 if node.op_type == "Conv" or attributes.get("transB", 0) else weight.ndim - 2
        found.setdefault(node.input[0], []).append(_Reader(node, groups > 1, axis))
    # one activation read as channels-first and as channels-last can't share factors
    return {n: g for n, g in found.items() if len({r.node.op_type == "Conv" for r in g}) == 1}


def _activation_peaks(model: ModelProto, data: CalibrationData, op_types: dict[str, str]) -> dict[str, np.ndarray]:
    """max|x| by channel over all images."""
    input_name = graph_inputs(model)[0].name
    names = [name for name in op_types if name != input_name]
    session = watching(model, names) if names else None
    peaks: dict[str, np.ndarray] = {}
    for image in images(model, data):
        values = dict(zip(names, session.run(names, {input_name: image}) if session else [], strict=True))
        for name, op_type in op_types.items():
            x = image if name == input_name else values[name]
            channel = 1 if op_type == "Conv" else x.ndim - 1
            peak = np.abs(x).max(axis=tuple(i for i in range(x.ndim) if i != channel))
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
    return peaks


def _fold(model: ModelProto, name: str, group: list[_Reader], factors: np.ndarray) -> bool:
    """Divide in the Conv that makes `name`, through a Relu; False when something else reads the result too."""
    constants, writers, uses = initializers(model), producers(model), consumers(model)
    outputs = {value.name for value in model.graph.output}
    if len(uses[name]) != len(group) or name in outputs:
        return False
    source = writers.get(name)
    if source is not None and source.op_type == "Relu":
        if len(uses[source.input[0]]) != 1 or source.input[0] in outputs:
            return False
        source = writers.get(source.input[0])
    if (
        source is None
        or source.op_type != "Conv"
        or any(n not in constants or len(uses[n]) != 1 for n in source.input[1:])
    ):
        return False
    weight = numpy_helper.to_array(constants[source.input[1]])
    _replace(model, source.input[1], weight / factors.reshape(-1, *[1] * (weight.ndim - 1)))
    if len(source.input) > 2:
        _replace(model, source.input[2], numpy_helper.to_array(constants[source.input[2]]) / factors)
    return True


def _insert(model: ModelProto, name: str, group: list[_Reader], factors: np.ndarray) -> None:
    rank = _weight(model, group[0].node).ndim
    shape = (1, -1, *[1] * (rank - 2)) if group[0].node.op_type == "Conv" else (-1,)
    scale = add_constant(model, f"{name}_smoothing", (1 / factors).reshape(shape).astype(np.float32))
    model.graph.node.append(helper.make_node("Mul", [name, scale], [f"{name}_smooth"], name=f"{name}_smooth_Mul"))
    for reader in group:
        reader.node.input[0] = f"{name}_smooth"


def _weight(model: ModelProto, node: NodeProto) -> np.ndarray:
    return numpy_helper.to_array(initializers(model)[node.input[1]])


def _replace(model: ModelProto, name: str, value: np.ndarray) -> None:
    initializers(model)[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
