"""Ranges that the outputs lose least by: each value counts with its squared gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.step import Positive, Step, Work, meaningless

if TYPE_CHECKING:
    from stdet.interfaces.deploy import Progress

SENSITIVITY = "Sensitivity"
IMAGES = 16
_WORST = 10
"""Tensors whose share of the error is recorded."""


class SensitivityOptions(Options):
    sensitivity_images: Positive | None = Field(
        None, description=f"Sensitivity: images whose gradients are taken, spread over all; default {IMAGES}"
    )


class SensitivityRanges(Step[SensitivityOptions]):
    options = SensitivityOptions
    section = "onnx_quant_parameters"
    methods = (SENSITIVITY,)

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        if self.of(settings).sensitivity_images is not None and settings.method != SENSITIVITY:
            yield meaningless("onnx_quant_parameters.sensitivity_images", f"calibrate_method: {SENSITIVITY}")

    def recorded(self, settings: Settings) -> dict[str, Any]:
        return {"sensitivity_images": self.of(settings).sensitivity_images or IMAGES}

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.quantize.images import subset
        from stdet_deploy_stm32.quantize.ranges.least_loss import least_loss

        if work.settings.method == SENSITIVITY:
            few = subset(work.calibration, self.of(work.settings).sensitivity_images or IMAGES)
            counted = _Counter(work.progress, work.calibration.count + few.count)
            levels = work.settings.activation_levels
            work.ranges, work.errors = least_loss(work.floating, work.calibration, few, levels, counted)
        return {"predicted_error_shares": _worst_shares(work.errors)}


def _worst_shares(errors: Mapping[str, float]) -> dict[str, float]:
    total = sum(errors.values())
    worst = sorted(errors, key=lambda n: -errors[n])[:_WORST] if total else []
    return {n: round(errors[n] / total, 4) for n in worst}


class _Counter:
    """Counts the images of several passes as one progress."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, done: int, total: int | None) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
