"""Another method of ranges for graphs that can't be differentiated."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from stdet.errors import QuantizationError
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.steps.int16_share import Int16Share
from stdet_deploy_stm32.quantize.steps.sensitivity_ranges import SENSITIVITY
from stdet_deploy_stm32.quantize.steps.step import Step, Work

log = logging.getLogger(__name__)

WITHOUT_GRADIENTS = "Percentile"
"""After Sensitivity, the best on YOLOX-nano (docs/quantization.md)."""


class WithoutGradients(Step[Options]):
    options = Options

    def run(self, work: Work) -> dict[str, Any]:
        """Fall back to `WITHOUT_GRADIENTS`, with a warning, where Sensitivity can't work.

        Raises:
            QuantizationError: it can't, and an option needs it.
        """
        from stdet_deploy_stm32.onnx_graph.gradients import no_gradient

        why = no_gradient(work.original) if work.settings.method == SENSITIVITY else ""
        if why:
            if Int16Share().of(work.settings).Int16Share:
                raise QuantizationError(
                    f"{why}, and onnx_extra_options.Int16Share goes by gradients", "leave Int16Share out"
                )
            log.warning("%s: ranges come from calibrate_method %s instead of %s", why, WITHOUT_GRADIENTS, SENSITIVITY)
            work.settings = dataclasses.replace(work.settings, method=WITHOUT_GRADIENTS)
        return {}
