"""Bias correction: biases take back what rounded weights shift in the mean of a channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.step import Step, Try, Work, meaningless


class BiasOptions(Options):
    BiasCorrection: bool = Field(
        False,
        description="let biases take back what rounded weights shift in the mean of each channel (arXiv 1906.04721)",
    )


class BiasCorrection(Step[BiasOptions]):
    options = BiasOptions
    tries = (Try({"BiasCorrection": True}, seconds=2),)

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        if self.of(settings).BiasCorrection and not settings.quantize_bias:
            yield meaningless("onnx_extra_options.BiasCorrection", "QuantizeBias: True")

    def recorded(self, settings: Settings) -> dict[str, Any]:
        return {"bias_correction": self.of(settings).BiasCorrection}

    def changes_trained(self, settings: Settings) -> str:
        return "BiasCorrection" if self.of(settings).BiasCorrection else ""

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.quantize.weights.mean_shift import correct_biases

        if not self.of(work.settings).BiasCorrection:
            return {}
        return {"bias_corrected": len(correct_biases(work.floating, work.placed(), work.calibration, work.progress))}
