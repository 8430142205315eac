"""Output ranges of an SSD: those of the priors that can become detections."""

from __future__ import annotations

from typing import Any

from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize.steps.sensitivity_ranges import SENSITIVITY
from stdet_deploy_stm32.quantize.steps.step import Step, Work


class SsdAnswers(Step[Options]):
    options = Options

    def run(self, work: Work) -> dict[str, Any]:
        from stdet_deploy_stm32.quantize.ranges.ssd_priors import answer_ranges, is_ssd

        if work.settings.method == SENSITIVITY and is_ssd(work.original):
            work.ranges |= answer_ranges(work.floating, work.ranges, work.calibration)
        return {}
