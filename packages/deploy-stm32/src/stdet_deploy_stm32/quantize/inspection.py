"""What each tensor alone costs the outputs: the float model is run with that one tensor quantized, and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.onnx_graph.surgery import consumers, dequantized, graph_inputs, initializers, producers
from stdet_deploy_stm32.quantize.images import images
from stdet_deploy_stm32.quantize.ranges.ssd_priors import is_ssd, possible

Kind = Literal["activation", "weight"]
NO_NOISE_DB = 200.0
"""Stands for a quantization that changes nothing at all."""


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor of the float model with what an int8 model makes of it.

    Attributes:
        kind: `activation` or `weight`.
        tensor: its name in the float model.
        layer: the node that makes the activation, or that the weight belongs to.
        op_type: that node's operator.
        scale, zero_point: of an activation; None for a weight.
        values: a weight after quantization, float32; None for an activation.
    """

    kind: Kind
    tensor: str
    layer: str
    op_type: str
    scale: np.ndarray | None = None
    zero_point: np.ndarray | None = None
    values: np.ndarray | None = None


@dataclass(frozen=True)
class Effect:
    """What quantizing one tensor alone does.

    Attributes:
        kind, tensor, layer, op_type: as in `QuantizedTensor`.
        sqnr_db: signal to quantization noise by output, dB; `NO_NOISE_DB` where nothing changes.
        score: the evaluator's metric, 0..1, when it was asked for.
    """

    kind: Kind
    tensor: str
    layer: str
    op_type: str
    sqnr_db: dict[str, float]
    score: float | None = None

    @property
    def worst_db(self) -> float:
        """Of the output that suffers most."""
        return min(self.sqnr_db.values())

    @property
    def worst_output(self) -> str:
        return min(self.sqnr_db, key=lambda name: self.sqnr_db[name])


def quantized_tensors(floating: ModelProto, quantized: ModelProto) -> list[QuantizedTensor]:
    """The activations and weights that `quantized` quantizes, in graph order.

    Args:
        floating: the float model with the same names.
        quantized: its QDQ form with float inputs and outputs.
    """
    makers, writers = producers(floating), producers(quantized)
    constants, readers = initializers(quantized), consumers(quantized)
    outputs = {value.name for value in floating.graph.output}
    known = {*makers, *(value.name for value in graph_inputs(floating))}
    found: dict[str, QuantizedTensor] = {}
    by_name = {node.name: node for node in floating.graph.node}
    for node in quantized.graph.node:
        name = _float_name(node, readers, outputs)
        if node.op_type == "QuantizeLinear" and name in known and name not in found:
            maker = makers.get(name)
            scale, zero = (numpy_helper.to_array(constants[n]) for n in node.input[1:3])
            found[name] = QuantizedTensor(
                "activation", name, maker.name if maker else name, maker.op_type if maker else "Input", scale, zero
            )
        original = by_name.get(node.name)
        if original is None or len(node.input) < 2:
            continue
        dq, weight = writers.get(node.input[1]), original.input[1]
        if dq is not None and dq.op_type == "DequantizeLinear" and dq.input[0] in constants and weight not in found:
            found[weight] = QuantizedTensor(
                "weight", weight, node.name, node.op_type, values=dequantized(dq, quantized)
            )
    return list(found.values())


def _float_name(node: NodeProto, readers: dict[str, list[NodeProto]], outputs: set[str]) -> str:
    """What a QuantizeLinear's input is called in the float model: an output's name moves behind the DequantizeLinear."""
    if not node.input or node.op_type != "QuantizeLinear":
        return ""
    behind = {name for reader in readers.get(node.output[0], []) for name in reader.output}
    return next(iter(behind & outputs), node.input[0])


def only(floating: ModelProto, tensors: Sequence[QuantizedTensor]) -> ModelProto:
    """A copy of `floating` in which `tensors` are quantized and nothing else is."""
    model = ModelProto()
    model.CopyFrom(floating)
    constants, outputs = initializers(model), {value.name for value in model.graph.output}
    for t in tensors:
        if t.values is not None:
            constants[t.tensor].CopyFrom(numpy_helper.from_array(t.values, t.tensor))
            continue
        assert t.scale is not None
        assert t.zero_point is not None
        parameters = [f"{t.tensor}/{name}" for name in ("scale", "zero_point")]
        for name, value in zip(parameters, (t.scale, t.zero_point), strict=True):
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        _insert_pair(model, t.tensor, parameters, t.tensor in outputs)
    return model


def _insert_pair(model: ModelProto, tensor: str, parameters: list[str], is_output: bool) -> None:
    """Q and DQ behind whatever makes `tensor`; an output keeps its name."""
    makers, readers = producers(model), consumers(model)
    real, narrow, rough = tensor, f"{tensor}/quantized", f"{tensor}/dequantized"
    if is_output:
        real, rough = f"{tensor}/real", tensor
        maker = makers[tensor]
        maker.output[list(maker.output).index(tensor)] = real
    else:
        for reader in readers.get(tensor, []):
            for index, name in enumerate(reader.input):
                if name == tensor:
                    reader.input[index] = rough
    pair = [
        helper.make_node("QuantizeLinear", [real, *parameters], [narrow], f"{tensor}/q"),
        helper.make_node("DequantizeLinear", [narrow, *parameters], [rough], f"{tensor}/dq"),
    ]
    at = next((i + 1 for i, node in enumerate(model.graph.node) if real in node.output), 0)
    for offset, node in enumerate(pair):
        model.graph.node.insert(at + offset, node)


class SqnrMeter:
    """Compares models with the float one on a few images, whose float outputs are computed once.

    Of an SSD's outputs the priors count that can be detections (`ssd_priors.possible`), where there are any.
    """

    def __init__(self, floating: ModelProto, calibration: CalibrationData, count: int) -> None:
        self.input = graph_inputs(floating)[0].name
        self.outputs = [value.name for value in floating.graph.output]
        self.images = list(islice(images(floating, calibration), count))
        session = new_session(floating.SerializeToString())
        self.real = [session.run(self.outputs, {self.input: image}) for image in self.images]
        self._parts: list[Any] = [...] * len(self.images)
        if is_ssd(floating):
            counts = [possible(real[0][0]) for real in self.real]
            if np.any(counts):
                self._parts = [(slice(None), rows) for rows in counts]

    def __call__(self, model: ModelProto) -> dict[str, float]:
        """SQNR of each output in dB over all images."""
        session = new_session(model.SerializeToString())
        signal, noise = np.zeros(len(self.outputs)), np.zeros(len(self.outputs))
        for image, real, part in zip(self.images, self.real, self._parts, strict=True):
            for k, (x, y) in enumerate(zip(real, session.run(self.outputs, {self.input: image}), strict=True)):
                signal[k] += np.square(x[part], dtype=np.float64).sum()
                noise[k] += np.square((x - y)[part], dtype=np.float64).sum()
        return {name: decibel(s, n) for name, s, n in zip(self.outputs, signal, noise, strict=True)}


def decibel(signal: float, noise: float) -> float:
    """Signal to noise from sums of squares, dB, two decimals; `NO_NOISE_DB` without noise."""
    if noise == 0.0:
        return NO_NOISE_DB
    return round(10 * float(np.log10(max(signal, np.finfo(np.float64).tiny) / noise)), 2)


def rank(
    floating: ModelProto, quantized: ModelProto, measure: SqnrMeter, progress: Progress | None = None
) -> list[Effect]:
    """The effect of each quantized tensor alone, the most harmful first.

    Args:
        measure: against `floating`.
        progress: called after each tensor.
    """
    tensors = quantized_tensors(floating, quantized)
    effects = []
    for index, t in enumerate(tensors):
        effects.append(Effect(t.kind, t.tensor, t.layer, t.op_type, measure(only(floating, [t]))))
        if progress is not None:
            progress(index + 1, len(tensors))
    return sorted(effects, key=lambda e: e.worst_db)


def group_effects(floating: ModelProto, quantized: ModelProto, measure: SqnrMeter) -> dict[str, dict[str, float]]:
    """SQNR of the outputs with all weights quantized, with all activations, and with both."""
    tensors = quantized_tensors(floating, quantized)
    kinds = {"weights": ["weight"], "activations": ["activation"], "both": ["weight", "activation"]}
    return {name: measure(only(floating, [t for t in tensors if t.kind in wanted])) for name, wanted in kinds.items()}


def with_scores(effects: Sequence[Effect], scores: Iterator[float]) -> list[Effect]:
    """`effects` with the first ones' `score` filled in."""
    given = dict(enumerate(scores))
    return [dataclasses.replace(e, score=given.get(i)) for i, e in enumerate(effects)]
