from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.quantize.steps.sensitivity_ranges import SensitivityRanges
from stdet_deploy_stm32.quantize.steps.step import Work

Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]


def test_sigmoids_have_a_step_of_a_256th(
    saved: Path, photos: Photos, section: Section, after: Callable[..., Work]
) -> None:
    ranges = after(SensitivityRanges, saved, photos(), section()).ranges
    assert ranges["s1"] == ranges["scores"] == (0.0, 255 / 256)


def test_gradients_are_taken_of_as_many_images_as_asked(
    saved: Path, photos: Photos, section: Section, after: Callable[..., Work]
) -> None:
    seen: list[tuple[int, int | None]] = []
    options = section(params={"sensitivity_images": 5}, extra={"CrossLayerEqualization": False})
    after(SensitivityRanges, saved, photos(12), options, lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 17) for i in range(17)]
