"""Sequential MSE: stored weights that each layer's result loses least by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.step import Step, Try, Work, meaningless


class SequentialOptions(Options):
    SequentialMSE: bool = Field(
        False, description="choose scale and rounding of the weights by what each layer's result loses, layer by layer"
    )


class SequentialMse(Step[SequentialOptions]):
    options = SequentialOptions
    tries = (
        Try({"SequentialMSE": True}, seconds=9),
        Try({"SequentialMSE": True, "BiasCorrection": True}, seconds=16),
    )

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        fits = settings.weight_symmetric and settings.weight_type in ("Int4", "Int8")
        if self.of(settings).SequentialMSE and not fits:
            yield meaningless("onnx_extra_options.SequentialMSE", "symmetric weights, weightType: Int8 or Int4")

    def recorded(self, settings: Settings) -> dict[str, Any]:
        return {"sequential_mse": self.of(settings).SequentialMSE}

    def changes_trained(self, settings: Settings) -> str:
        return "SequentialMSE" if self.of(settings).SequentialMSE else ""

    def run(self, work: Work) -> dict[str, Any]:
        import numpy as np

        from stdet_deploy_stm32.quantize.weights.refitting import refit_weights

        if not self.of(work.settings).SequentialMSE:
            return {}
        fixed = {o.tensor for o in work.settings.weight_overrides if o.scale is not None}
        costs = list(refit_weights(work.floating, work.placed(), work.calibration, fixed, work.progress).values())
        return {"refitted": {"layers": len(costs), "median_cost": float(np.median(costs)) if costs else None}}
