"""Ranges of the inputs of SiLU and HardSwish without the tail in which these are flat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.sensitivity_ranges import SENSITIVITY
from stdet_deploy_stm32.quantize.steps.step import Step, Try, Work, meaningless


class AwareOptions(Options):
    ActivationAwareRanges: bool = Field(
        False, description="cut the inputs of SiLU at -8 and of HardSwish at -3, below which they are flat"
    )


class ActivationAwareRanges(Step[AwareOptions]):
    options = AwareOptions
    tries = (Try({"ActivationAwareRanges": True}, seconds=1),)

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        if self.of(settings).ActivationAwareRanges and settings.method == SENSITIVITY:
            yield meaningless(
                "onnx_extra_options.ActivationAwareRanges",
                f"a calibrate_method other than {SENSITIVITY}, which is aware of activations anyway",
            )

    def recorded(self, settings: Settings) -> dict[str, Any]:
        return {"activation_aware": self.of(settings).ActivationAwareRanges}

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.onnx_graph.gates import floors

        if self.of(work.settings).ActivationAwareRanges:
            for name, floor in floors(work.floating).items():
                low, high = work.ranges[name]
                work.ranges[name] = (min(max(low, floor), high), high)
        return {}
