"""Which tensors the outputs suffer from most or least, and what follows: equalization, int16 activations, int4 weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, numpy_helper

from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.quantize.calibrate import float_activations
from stdet_deploy_stm32.quantize.equalize import Pair, pairs
from stdet_deploy_stm32.quantize.form import WEIGHTED, channel_axis
from stdet_deploy_stm32.quantize.inspection import QuantizedTensor, SqnrMeter, only
from stdet_deploy_stm32.quantize.options import Override, Recipe
from stdet_deploy_stm32.quantize.surgery import initializers

DOMINANT = 0.25
"""A pair of layers is equalized while its tensors make up more than this share of the remaining error."""
NEGLIGIBLE = 0.01
"""A tensor with a smaller share of the error isn't worth int16."""
_PREVIEW = 4
"""Images that show what a weight in 4 bits does."""


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


def int16_tensors(model: ModelProto, errors: Mapping[str, float], budget: float) -> tuple[list[str], float]:
    """Tensors to keep in int16 within `budget`, and the share of the activation bytes that they then take.

    The share counts every activation tensor once, as the graph writes it. Chosen by error saved per byte.

    Args:
        errors: predicted loss of the outputs by tensor.
        budget: 0..1.
    """
    sizes = {v.name: math.prod(d.dim_value for d in v.type.tensor_type.shape.dim) for v in float_activations(model)}
    total, wide = sum(sizes.values()), 0
    floor = NEGLIGIBLE * sum(errors.values())
    chosen = []
    for name in sorted(errors, key=lambda n: -errors[n] / sizes[n]):
        if errors[name] > floor and 2 * (wide + sizes[name]) <= budget * (total + wide + sizes[name]):
            chosen.append(name)
            wide += sizes[name]
    return chosen, 2 * wide / (total + wide)


def int4_weights(
    model: ModelProto, data: CalibrationData, recipe: Recipe, progress: Progress | None = None
) -> tuple[list[Override], float]:
    """Weights to store in 4 bits within `recipe.int4_share`, and the share of all quantized weights that they are.

    Those whose noise at the output that suffers most is least for the bits saved, when each is rounded alone and the
    float model run on a few images. Weights with an override are left alone.

    Args:
        model: float graph.
        progress: called after each weight.
    """
    if recipe.int4_share == 0:
        return [], 0.0
    weights = _quantized_weights(model, recipe)
    total = sum(array.size for array, _ in weights.values())
    for override in recipe.weight_overrides:
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
        if narrow + array.size <= recipe.int4_share * total:
            chosen.append(Override(name, "Int4", None, None, axis))
            narrow += array.size
    return chosen, narrow / total if total else 0.0


def _quantized_weights(model: ModelProto, recipe: Recipe) -> dict[str, tuple[np.ndarray, int]]:
    """Weights of the layers that the recipe quantizes, and the axis of their output channels."""
    constants = initializers(model)
    found = {}
    for node in model.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in constants and recipe.chooses(node):
            array = numpy_helper.to_array(constants[node.input[1]])
            found[node.input[1]] = (array, channel_axis(node) % array.ndim)
    return found


def _four_bits(weight: np.ndarray, axis: int) -> np.ndarray:
    """float32, rounded to -7..7 steps, a step for each channel of `axis`."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    step = np.maximum(np.abs(weight).max(axis=others, keepdims=True), np.finfo(np.float32).tiny) / 7
    return np.asarray(np.rint(weight / step) * step, np.float32)
