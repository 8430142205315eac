from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stdet.errors import QuantizationError
from stdet_deploy_stm32.quantize.options import read_options
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.quantize.steps.cross_layer_equalization import CrossLayerEqualization
from stdet_deploy_stm32.quantize.steps.int16_share import Int16Share

Section = Callable[..., Quantization]


def test_the_default_method_is_sensitivity_and_equalizes(section: Section) -> None:
    settings = read_options(section())
    assert settings.method == "Sensitivity"
    assert CrossLayerEqualization().asked(settings)
    assert Int16Share().of(settings).Int16Share == 0.0
    assert not CrossLayerEqualization().asked(read_options(section(params={"calibrate_method": "MinMax"})))


@pytest.mark.parametrize(
    ("params", "extra", "message"),
    [
        ({"percentile": 99.0}, {}, "percentile has no meaning"),
        ({"calibrate_method": "MSE", "sensitivity_images": 4}, {}, "sensitivity_images has no meaning"),
        ({"calibrate_method": "MinMax"}, {"CrossLayerEqualization": True}, "CrossLayerEqualization has no meaning"),
        ({"calibrate_method": "MinMax"}, {"Int16Share": 0.1}, "Int16Share has no meaning"),
        ({"activType": "UInt8"}, {"Int16Share": 0.1}, "Int16Share has no meaning"),
        ({}, {"ActivationAwareRanges": True}, "ActivationAwareRanges has no meaning"),
        ({}, {"Int16Share": 0.1}, "needs opset 21"),
        ({}, {"Int4Share": 0.1}, "needs opset 21"),
        ({"weightType": "Int16"}, {"Int4Share": 0.1}, "Int4Share has no meaning"),
        ({"calibrate_method": "Sensitive"}, {}, "allowed: MinMax, Entropy, Percentile, MSE, Sensitivity"),
    ],
)
def test_an_option_without_meaning_is_refused(
    section: Section, params: dict[str, Any], extra: dict[str, Any], message: str
) -> None:
    with pytest.raises(QuantizationError) as caught:
        read_options(section(params=params, extra=extra))
    assert message in f"{caught.value} {caught.value.hint}"
