"""Which weights the outputs suffer from least in 4 bits."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, numpy_helper

from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.onnx_graph.surgery import initializers
from stdet_deploy_stm32.quantize.form.check import WEIGHTED, channel_axis
from stdet_deploy_stm32.quantize.inspection import QuantizedTensor, SqnrMeter, only
from stdet_deploy_stm32.quantize.settings import Override, Settings

_PREVIEW = 4
"""Images that show what a weight in 4 bits does."""


def int4_weights(
    model: ModelProto, data: CalibrationData, settings: Settings, share: float, progress: Progress | None = None
) -> tuple[list[Override], float]:
    """Weights to store in 4 bits within `share`, and the share of all quantized weights that they are.

    Those whose noise at the output that suffers most is least for the bits saved, when each is rounded alone and the
    float model run on a few images. Weights with an override are left alone.

    Args:
        model: float graph.
        share: of the quantized weights, 0..1.
        progress: called after each weight.
    """
    if share == 0:
        return [], 0.0
    weights = _quantized_weights(model, settings)
    total = sum(array.size for array, _ in weights.values())
    for override in settings.weight_overrides:
        weights.pop(override.tensor, None)
    measure = SqnrMeter(model, data, _PREVIEW)
    noise: dict[str, float] = {}
    for index, (name, (array, axis)) in enumerate(weights.items()):
        rounded = QuantizedTensor("weight", name, "", "", values=_four_bits(array, axis))
        noise[name] = 10 ** (-min(measure(only(model, [rounded])).values()) / 10)
        if progress is not None:
            progress(index + 1, len(weights))
    chosen: list[Override] = []
    narrow = 0
    for name in sorted(weights, key=lambda n: noise[n] / weights[n][0].size):
        array, axis = weights[name]
        if narrow + array.size <= share * total:
            chosen.append(Override(name, "Int4", None, None, axis))
            narrow += array.size
    return chosen, narrow / total if total else 0.0


def _quantized_weights(model: ModelProto, settings: Settings) -> dict[str, tuple[np.ndarray, int]]:
    """Weights of the layers that the settings let quantize, and the axis of their output channels."""
    constants = initializers(model)
    found = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in constants and settings.chooses(node):
            array = numpy_helper.to_array(constants[node.input[1]])
            found[node.input[1]] = (array, channel_axis(node) % array.ndim)
    return found


def _four_bits(weight: np.ndarray, axis: int) -> np.ndarray:
    """float32, rounded to -7..7 steps, a step for each channel of `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    step = np.maximum(np.abs(weight).max(axis=others, keepdims=True), np.finfo(np.float32).tiny) / 7
    return np.asarray(np.rint(weight / step) * step, np.float32)
