"""SmoothQuant: the reach of a channel moves from the activation to the weights that read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.step import Share, Step, Work, meaningless


class SmoothQuantOptions(Options):
    SmoothQuant: bool = Field(False, description="move range from activations to weights (arXiv 2211.10438)")
    SmoothQuantAlpha: Share = Field(0.5, description="how much of it")
    SmoothQuantFolding: bool = Field(True, description="fold the factors into the layer before")


class SmoothQuant(Step[SmoothQuantOptions]):
    options = SmoothQuantOptions

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        asked = self.of(settings)
        for key in ("SmoothQuantAlpha", "SmoothQuantFolding"):
            if not asked.SmoothQuant and getattr(asked, key) != self.options.model_fields[key].default:
                yield meaningless(f"onnx_extra_options.{key}", "SmoothQuant: True")

    def recorded(self, settings: Settings) -> dict[str, Any]:
        asked = self.of(settings)
        return {"smooth_alpha": asked.SmoothQuantAlpha if asked.SmoothQuant else None}

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.quantize.weights.smoothing import smooth

        asked = self.of(work.settings)
        if asked.SmoothQuant:
            work.floating = smooth(work.floating, work.calibration, asked.SmoothQuantAlpha, asked.SmoothQuantFolding)
        return {}
