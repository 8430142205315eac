"""Cross-layer equalization: bring the channels of an activation to one range, so that one int8 scale serves them all.

Nagel et al., "Data-free quantization through weight equalization and bias correction" (2019), scale the channels of a
convolution's result down and the weights that read it up, which Relu lets through unchanged. SiLU and HardSwish don't:
x·sigmoid(x) of a scaled x is another function. But scaled is allowed where x is a factor, and inside the sigmoid x needs
few bits. So the convolution gives u = x / a, the result is u·sigmoid(a·u), and a multiplication by the constant a, one
value a channel, is all that is added. The factors are chosen by the activation's peaks alone: the weights have a scale
for each channel anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.gates import activation
from stdet_deploy_stm32.onnx_graph.session import watching
from stdet_deploy_stm32.onnx_graph.surgery import add_constant, consumers, graph_inputs, initializers, sort_nodes
from stdet_deploy_stm32.quantize.images import images

DOMINANT = 0.25
"""A pair of layers is equalized while its tensors make up more than this share of the remaining error."""
_LEVELS = 255


@dataclass(frozen=True)
class Pair:
    """A convolution whose result's channels can be scaled, and the convolutions that take the factors back.

    Attributes:
        maker: Conv with constant weight and bias.
        gate: Sigmoid, HardSigmoid or HardSwish behind it; None for Relu or nothing.
        tensors: names from the maker's result to what the readers read.
        readers: Conv nodes.
    """

    maker: NodeProto
    gate: NodeProto | None
    tensors: tuple[str, ...]
    readers: tuple[NodeProto, ...]


def pairs(model: ModelProto) -> list[Pair]:
    """All pairs of `model`, in graph order."""
    constants, uses = initializers(model), consumers(model)
    outputs = {value.name for value in model.graph.output}

    def own(node: NodeProto) -> bool:
        return all(n in constants and len(uses[n]) == 1 for n in node.input[1:])

    found = []
    for node in model.graph.node:
        if node.op_type != "Conv" or not own(node):
            continue
        gate, tensors = activation(node.output[0], uses)
        readers = uses.get(tensors[-1], [])
        if (
            outputs.isdisjoint(tensors)
            and readers
            and all(r.op_type == "Conv" and own(r) and _splits(r, constants) for r in readers)
        ):
            found.append(Pair(node, gate, tensors, tuple(readers)))
    return found


def _splits(reader: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Whether each input channel has weights of its own: dense, or depthwise in order."""
    return _groups(reader) == 1 or list(constants[reader.input[1]].dims)[1] == 1


def _groups(node: NodeProto) -> int:
    return int(next((a.i for a in node.attribute if a.name == "group"), 1))


def dominant_pairs(model: ModelProto, errors: Mapping[str, float]) -> list[Pair]:
    """The pairs that make up most of the predicted error, worst first; none in a well balanced network.

    Args:
        errors: predicted loss of the outputs by tensor.
    """
    remaining = sum(errors.values())
    weighed = [(sum(errors.get(name, 0.0) for name in pair.tensors), pair) for pair in pairs(model)]
    chosen = []
    for loss, pair in sorted(weighed, key=lambda entry: -entry[0]):
        if loss <= DOMINANT * remaining:
            break
        chosen.append(pair)
        remaining -= loss
    return chosen


def equalize(
    model: ModelProto,
    data: CalibrationData,
    wanted: Iterable[Pair],
) -> ModelProto:
    """A model with the same function, in which the channels of each pair's result reach about 1.

    Args:
        wanted: pairs of `model`.

    Raises:
        QuantizationError: unusable images.
    """
    chosen = list(wanted)
    peaks = _peaks(model, [p.tensors[-1] for p in chosen], images(model, data))
    result = ModelProto()
    result.CopyFrom(model)
    for pair in chosen:
        _scale(result, pair, _factors(peaks[pair.tensors[-1]], pair.gate is not None))
    sort_nodes(result)
    return shape_inference.infer_shapes(result)


def _factors(peaks: np.ndarray, gated: bool) -> np.ndarray:
    """float32 (C,), what each channel is divided by.

    For a gate they are whole multiples of a 255th of the largest, so that the constant is exact in 8 bits.
    """
    top = float(peaks.max())
    if top == 0.0:
        return np.ones_like(peaks)
    step = top / _LEVELS
    floor = np.maximum(peaks, step)
    return np.asarray(np.ceil(floor / step - 1e-6) * step if gated else floor, np.float32)


def _peaks(model: ModelProto, names: list[str], batches: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """max|x| by channel over the images."""
    session = watching(model, names)
    peaks: dict[str, np.ndarray] = {}
    for image in batches:
        for name, value in zip(names, session.run(names, {graph_inputs(model)[0].name: image}), strict=True):
            peak = np.abs(value).max(axis=(0, *range(2, value.ndim)))
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
    return peaks


def _scale(model: ModelProto, pair: Pair, factors: np.ndarray) -> None:
    """Divide the maker's output channels, multiply the readers' input channels."""
    for name in pair.maker.input[1:]:
        _multiply(model, name, 1 / factors, 0)
    for reader in pair.readers:
        _multiply(model, reader.input[1], factors, 1 if _groups(reader) == 1 else 0)
    if pair.gate is not None:
        _restore_gate(model, pair.gate, pair.tensors[0], factors)


def _restore_gate(model: ModelProto, gate: NodeProto, name: str, factors: np.ndarray) -> None:
    """Let the gate see what it saw before: the tensor times its factors. A HardSwish is taken apart first."""
    rank = len(next(v for v in model.graph.value_info if v.name == name).type.tensor_type.shape.dim)
    constant = add_constant(model, f"{name}_factors", factors.reshape([1, -1, *[1] * (rank - 2)]))
    restored = f"{name}_restored"
    model.graph.node.append(helper.make_node("Mul", [name, constant], [restored], name=f"{restored}_Mul"))
    node = next(n for n in model.graph.node if n.name == gate.name)
    if node.op_type == "HardSwish":
        product = helper.make_node("Mul", [name, f"{name}_gate"], [node.output[0]], name=f"{node.name}_Mul")
        replacement = helper.make_node(
            "HardSigmoid", [restored], [f"{name}_gate"], name=node.name, alpha=1 / 6, beta=0.5
        )
        node.CopyFrom(replacement)
        model.graph.node.append(product)
    else:
        node.input[0] = restored


def _multiply(model: ModelProto, name: str, factors: np.ndarray, axis: int) -> None:
    """Multiply the constant `name` along `axis`."""
    tensor = initializers(model)[name]
    value = numpy_helper.to_array(tensor)
    scaled = value * factors.reshape([-1 if i == axis else 1 for i in range(value.ndim)])
    tensor.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), name))
