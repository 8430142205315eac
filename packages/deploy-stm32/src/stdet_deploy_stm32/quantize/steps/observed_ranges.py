"""Ranges that are chosen for each activation by itself, from what is seen of its values over all images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import Field

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.settings import Settings
from stdet_deploy_stm32.quantize.steps.step import OptionsT, Step, Work, meaningless

if TYPE_CHECKING:
    from stdet_deploy_stm32.quantize.ranges.methods import Observer

PERCENTILE = 99.9


class _Observed(Step[OptionsT]):
    """A method of `ranges.methods.METHODS`."""

    def observer(self, settings: Settings) -> Callable[[], Observer]:
        """Makes what watches one tensor."""
        from stdet_deploy_stm32.quantize.ranges.methods import METHODS

        return METHODS[settings.method]

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.quantize.ranges.observe import tensor_ranges

        if work.settings.method in self.methods:
            observer = self.observer(work.settings)
            work.ranges = tensor_ranges(work.floating, work.calibration, observer, work.progress)
        return {}


class MinMaxOptions(Options):
    CalibMovingAverage: bool = Field(False, description="average the ranges of the images (MinMax)")


class MinMax(_Observed[MinMaxOptions]):
    """All values; or the mean of the images' ranges."""

    methods = ("MinMax",)
    options = MinMaxOptions

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        if self.of(settings).CalibMovingAverage and settings.method not in self.methods:
            yield QuantizationError(
                "quantization.onnx_extra_options.CalibMovingAverage has no meaning with calibrate_method "
                f"{settings.method}",
                "use calibrate_method: MinMax",
            )

    def recorded(self, settings: Settings) -> dict[str, Any]:
        return {"average_ranges": self.of(settings).CalibMovingAverage}

    def observer(self, settings: Settings) -> Callable[[], Observer]:
        from stdet_deploy_stm32.quantize.ranges.methods import AverageMinMax

        return AverageMinMax if self.of(settings).CalibMovingAverage else super().observer(settings)


class Entropy(_Observed[Options]):
    """Least Kullback-Leibler divergence."""

    methods = ("Entropy",)
    options = Options


class PercentileOptions(Options):
    percentile: float | None = Field(
        None, gt=50, le=100, description=f"Percentile: percent of the values inside the range; default {PERCENTILE}"
    )


class Percentile(_Observed[PercentileOptions]):
    """The central part of the values."""

    methods = ("Percentile",)
    options = PercentileOptions
    section = "onnx_quant_parameters"

    def mistakes(self, settings: Settings) -> Iterator[QuantizationError]:
        if self.of(settings).percentile is not None and settings.method not in self.methods:
            yield meaningless("onnx_quant_parameters.percentile", "calibrate_method: Percentile")

    def recorded(self, settings: Settings) -> dict[str, Any]:
        return {"percentile": self._percent(settings)}

    def observer(self, settings: Settings) -> Callable[[], Observer]:
        from stdet_deploy_stm32.quantize.ranges.methods import FromHistogram, percentile_range

        return lambda: FromHistogram(lambda histogram: percentile_range(histogram, self._percent(settings)))

    def _percent(self, settings: Settings) -> float:
        asked = self.of(settings).percentile
        return PERCENTILE if asked is None else asked


class MeanSquaredError(_Observed[Options]):
    """Least squared error of the tensor itself."""

    methods = ("MSE",)
    options = Options
