"""int4 for the weights that the outputs need least."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.step import Share, Step, Work, meaningless


class Int4Options(Options):
    Int4Share: Share = Field(
        0.0, description="share of the weight bytes that become int4, least sensitive first; needs target_opset 21"
    )


class Int4Share(Step[Int4Options]):
    options = Int4Options

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        if self.of(settings).Int4Share and not (settings.weight_type == "Int8" and settings.per_channel):
            yield meaningless("onnx_extra_options.Int4Share", "weightType: Int8 and granularity: per_channel")

    def recorded(self, settings: Settings) -> dict[str, Any]:
        return {"int4_share": self.of(settings).Int4Share}

    def needs_opset_21(self, settings: Settings) -> tuple[str, ...]:
        return ("Int4Share",) if self.of(settings).Int4Share else ()

    def changes_trained(self, settings: Settings) -> str:
        return "Int4Share" if self.of(settings).Int4Share else ""

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.quantize.weights.four_bits import int4_weights

        settings = work.settings
        narrow, share = int4_weights(
            work.floating, work.calibration, settings, self.of(settings).Int4Share, work.progress
        )
        work.settings = dataclasses.replace(settings, weight_overrides=(*settings.weight_overrides, *narrow))
        return {"int4": {"tensors": [o.tensor for o in narrow], "share_of_weight_bytes": round(share, 4)}}
