"""int16 for the activations that the outputs suffer from most."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.settings import Override, Settings
from stdet_deploy_stm32.quantize.steps.sensitivity_ranges import SENSITIVITY
from stdet_deploy_stm32.quantize.steps.step import Share, Step, Work, meaningless

if TYPE_CHECKING:
    from onnx import ModelProto

NEGLIGIBLE = 0.01
"""A tensor with a smaller share of the error isn't worth int16."""
_PARTS = (0.25, 0.5, 1.0)
"""Of what may be int16, tried by the search."""


class Int16Options(Options):
    Int16Share: Share = Field(
        0.0, description="share of activation bytes that may become int16, worst tensors first; needs target_opset 21"
    )


class Int16Share(Step[Int16Options]):
    options = Int16Options

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        if self.of(settings).Int16Share == 0:
            return
        if settings.method != SENSITIVITY:
            yield meaningless("onnx_extra_options.Int16Share", f"calibrate_method: {SENSITIVITY}")
        if settings.activation_type != "Int8":
            yield meaningless("onnx_extra_options.Int16Share", "activType: Int8")

    def recorded(self, settings: Settings) -> dict[str, Any]:
        return {"int16_share": self.of(settings).Int16Share}

    def needs_opset_21(self, settings: Settings) -> tuple[str, ...]:
        return ("Int16Share",) if self.of(settings).Int16Share else ()

    def int16_tries(self, most: float) -> tuple[Mapping[str, Any], ...]:
        return tuple({"Int16Share": part * most} for part in _PARTS if most)

    def run(self, work: Work) -> dict[str, Any]:
        wide: list[str] = []
        share = 0.0
        if work.errors:
            wide, share = int16_tensors(work.floating, work.errors, self.of(work.settings).Int16Share)
        given = work.settings.activation_overrides
        named = {o.tensor for o in given}
        chosen = (Override(name, "Int16", None, None, None) for name in wide if name not in named)
        work.settings = dataclasses.replace(work.settings, activation_overrides=(*given, *chosen))
        return {"int16": {"tensors": wide, "share_of_activation_bytes": round(share, 4)}}


def int16_tensors(model: ModelProto, errors: Mapping[str, float], budget: float) -> tuple[list[str], float]:
    """Tensors to keep in int16 within `budget`, and the share of the activation bytes that they then take.

    The share counts every activation tensor once, as the graph writes it. Chosen by error saved per byte.

    Args:
        errors: predicted loss of the outputs by tensor.
        budget: 0..1.
    """
    from stdet_deploy_stm32.onnx_graph.surgery import float_activations

    sizes = {v.name: math.prod(d.dim_value for d in v.type.tensor_type.shape.dim) for v in float_activations(model)}
    total, wide = sum(sizes.values()), 0
    floor = NEGLIGIBLE * sum(errors.values())
    chosen = []
    for name in sorted(errors, key=lambda n: -errors[n] / sizes[n]):
        if errors[name] > floor and 2 * (wide + sizes[name]) <= budget * (total + wide + sizes[name]):
            chosen.append(name)
            wide += sizes[name]
    return chosen, 2 * wide / (total + wide)
