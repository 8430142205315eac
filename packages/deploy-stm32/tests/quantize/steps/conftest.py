"""A model after some of the steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.quantize.options import read_options
from stdet_deploy_stm32.quantize.prepare import prepare
from stdet_deploy_stm32.quantize.steps import STEPS
from stdet_deploy_stm32.quantize.steps.step import Step, Work


@pytest.fixture
def after() -> Callable[..., Work]:
    """Runs the steps up to and including the one of class `last`."""

    def build(
        last: type[Step[Any]], model: Path, data: CalibrationData, config: Any, progress: Progress | None = None
    ) -> Work:
        settings = read_options(config)
        floating = prepare(model, settings.target_opset)
        work = Work(settings, data, progress, floating, None, floating)
        for step in STEPS:
            step.run(work)
            if isinstance(step, last):
                return work
        raise AssertionError(f"{last} is no step")

    return build
