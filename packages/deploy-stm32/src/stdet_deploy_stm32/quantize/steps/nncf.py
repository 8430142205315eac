"""NNCF as quantizer: its bias correction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.libraries import Library
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.bias_correction import BiasCorrection
from stdet_deploy_stm32.quantize.steps.int4_share import Int4Share
from stdet_deploy_stm32.quantize.steps.step import Step, Work, meaningless

# Set while NNCF is imported, NNCF_CI keeps it from sending usage reports to its makers.
NNCF = Library("nncf", "NNCF", "biases corrected by NNCF", "nncf", "nncf", (3, 4), {"NNCF_CI": "1"})


class Nncf(Step[Options]):
    options = Options
    library = NNCF

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        if settings.quantizer != NNCF.name:
            return
        if BiasCorrection().of(settings).BiasCorrection:
            yield meaningless(
                "onnx_extra_options.BiasCorrection",
                "quantizer: onnx_quantizer, since NNCF corrects the biases itself",
            )
        if (settings.weight_type, settings.activation_type) != ("Int8", "Int8") or Int4Share().of(settings).Int4Share:
            yield meaningless(
                "quantizer: nncf",
                "weightType: Int8 and activType: Int8, without Int4Share: NNCF corrects for 8 bits",
            )

    def changes_trained(self, settings: Settings) -> str:
        return f"quantizer: {NNCF.name}" if settings.quantizer == NNCF.name else ""

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.quantize.weights.nncf_biases import correct_by_nncf

        if work.settings.quantizer != NNCF.name:
            return {}
        work.floating, corrected = correct_by_nncf(NNCF, work.floating, work.calibration, work.settings, work.progress)
        return {NNCF.name: {"version": NNCF.version(), "biases_corrected": corrected}}
