"""The input's range: all that pixels can become, whatever the images hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.steps.step import Step, Work

if TYPE_CHECKING:
    from stdet.structures import Preprocess


class PixelRange(Step[Options]):
    options = Options

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.onnx_graph.surgery import graph_inputs

        if work.spec is not None:
            work.ranges[graph_inputs(work.floating)[0].name] = pixel_range(work.spec.preprocess)
        return {}


def pixel_range(preprocess: Preprocess) -> tuple[float, float]:
    """What pixels 0..255 become after normalisation: (lowest, highest) of all channels.

    A range from calibration images would depend on whether one of them is black and white enough; with this one an
    8-bit input of a model with one mean and std is the camera's byte itself.
    """
    ends = [
        ((pixel * preprocess.scale + preprocess.offset) - mean) / std
        for pixel in (0.0, 255.0)
        for mean, std in zip(preprocess.mean, preprocess.std, strict=True)
    ]
    return min(ends), max(ends)
