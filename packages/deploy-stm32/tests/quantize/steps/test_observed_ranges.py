from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.quantize.ranges.methods import METHODS
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.quantize.steps import methods
from stdet_deploy_stm32.quantize.steps.observed_ranges import PERCENTILE, MeanSquaredError
from stdet_deploy_stm32.quantize.steps.step import Work


def test_each_observer_has_a_step_and_the_other_way_round() -> None:
    assert set(methods()) == {*METHODS, "Sensitivity"}
    assert len(methods()) == len(set(methods()))


def test_the_percentile_is_obeyed(
    saved: Path,
    photos: Callable[..., CalibrationData],
    section: Callable[..., Quantization],
    after: Callable[..., Work],
) -> None:
    def ranges(**params: object) -> dict[str, tuple[float, float]]:
        return after(MeanSquaredError, saved, photos(), section(params=params)).ranges

    wide, narrow = (ranges(calibrate_method="Percentile", percentile=p)["c1"] for p in (100.0, 90.0))
    assert wide == pytest.approx(ranges(calibrate_method="MinMax")["c1"])
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert ranges(calibrate_method="Percentile") == ranges(calibrate_method="Percentile", percentile=PERCENTILE)
