"""AIMET as quantizer: its AdaRound rounds the weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.libraries import Library
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.sequential_mse import SequentialMse
from stdet_deploy_stm32.quantize.steps.step import Positive, Step, Work, meaningless

AIMET = Library("aimet", "AIMET", "weights rounded by AIMET's AdaRound", "aimet-onnx", "aimet_onnx", (2, 42))
ITERATIONS = 500
"""Of each layer; AIMET's own default of 10 000 is for graphics cards."""


class AimetOptions(Options):
    AdaRoundIterations: Positive | None = Field(
        None, description=f"aimet: steps of the descent that rounds each layer; default {ITERATIONS}"
    )


class Aimet(Step[AimetOptions]):
    options = AimetOptions
    library = AIMET

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        if settings.quantizer != AIMET.name:
            if self.of(settings).AdaRoundIterations is not None:
                yield meaningless("onnx_extra_options.AdaRoundIterations", "quantizer: aimet")
            return
        if SequentialMse().of(settings).SequentialMSE:
            yield meaningless(
                "onnx_extra_options.SequentialMSE",
                "another quantizer, since it would round anew what AdaRound has rounded",
            )
        if not settings.per_channel or settings.weight_type not in ("Int4", "Int8"):
            yield meaningless("quantizer: aimet", "granularity: per_channel and weightType: Int8 or Int4")

    def changes_trained(self, settings: Settings) -> str:
        return f"quantizer: {AIMET.name}" if settings.quantizer == AIMET.name else ""

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.quantize.weights.aimet_rounding import round_by_aimet

        if work.settings.quantizer != AIMET.name:
            return {}
        iterations = self.of(work.settings).AdaRoundIterations or ITERATIONS
        found = round_by_aimet(AIMET, work.floating, work.calibration, work.settings, iterations, work.progress)
        work.rounded, work.rounded_scales = found.model, found.scales
        return {AIMET.name: found.record}
