from __future__ import annotations

import numpy as np
import pytest

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.quantize.images import subset


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 4, 7]), (10, list(range(10))), (20, list(range(10)))])
def test_a_subset_is_spread_evenly(count: int, expected: list[int]) -> None:
    read: list[int] = []

    def image(index: int) -> np.ndarray:
        read.append(index)
        return np.full((1, 1), index)

    few = subset(CalibrationData(image, 10, "", "here"), count)
    assert [int(image.item()) for image in few.batches()] == read == expected
    assert few.count == len(expected)
