"""Cross-layer equalization: layers whose channels no single range serves get channels of one reach."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.sensitivity_ranges import SENSITIVITY
from stdet_deploy_stm32.quantize.steps.step import Step, Work, meaningless

_PREVIEW = 4
"""Images that show which layers to equalize."""


class EqualizationOptions(Options):
    CrossLayerEqualization: bool | None = Field(
        None, description="scale the channels of the worst layers alike (arXiv 1906.04721); default: with Sensitivity"
    )


class CrossLayerEqualization(Step[EqualizationOptions]):
    options = EqualizationOptions

    def asked(self, settings: Settings) -> bool:
        return settings.method == SENSITIVITY and self.of(settings).CrossLayerEqualization is not False

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        if self.of(settings).CrossLayerEqualization and settings.method != SENSITIVITY:
            yield meaningless("onnx_extra_options.CrossLayerEqualization", f"calibrate_method: {SENSITIVITY}")

    def recorded(self, settings: Settings) -> dict[str, Any]:
        return {"equalize": self.asked(settings)}

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.quantize.images import subset
        from stdet_deploy_stm32.quantize.ranges.least_loss import least_loss
        from stdet_deploy_stm32.quantize.weights.equalizing import dominant_pairs, equalize

        if not self.asked(work.settings):
            return {"equalized": []}
        few = subset(work.calibration, _PREVIEW)
        _, errors = least_loss(work.floating, few, few, work.settings.activation_levels)
        chosen = dominant_pairs(work.floating, errors)
        if chosen:
            work.floating = equalize(work.floating, few, chosen)
        return {"equalized": [pair.tensors[-1] for pair in chosen]}
