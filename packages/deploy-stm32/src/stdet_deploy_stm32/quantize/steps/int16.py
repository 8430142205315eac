"""Which activations the outputs suffer from most: those are worth int16."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import ModelProto

from stdet_deploy_stm32.onnx_graph.surgery import float_activations

NEGLIGIBLE = 0.01
"""A tensor with a smaller share of the error isn't worth int16."""


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
