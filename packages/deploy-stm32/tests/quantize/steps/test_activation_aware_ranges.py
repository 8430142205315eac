from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import ModelProto

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.quantize.steps.activation_aware_ranges import ActivationAwareRanges
from stdet_deploy_stm32.quantize.steps.step import Work


def test_aware_ranges_cut_the_flat_tail_and_nothing_else(
    photos: Callable[..., CalibrationData],
    section: Callable[..., Quantization],
    tmp_path: Path,
    detector: Callable[..., ModelProto],
    after: Callable[..., Work],
) -> None:
    model = detector()
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 20, "w1"))
    onnx.save(model, tmp_path / "wide.onnx")
    plain, aware = (
        after(
            ActivationAwareRanges,
            tmp_path / "wide.onnx",
            photos(),
            section(params={"calibrate_method": "MinMax"}, extra={"ActivationAwareRanges": asked}),
        ).ranges
        for asked in (False, True)
    )
    assert plain["c1"][0] < -8
    assert aware["c1"] == (-8.0, plain["c1"][1])
    assert aware | {"c1": plain["c1"]} == plain
