"""int4 for the weights that the outputs need least."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.quantize.form.check import check_form
from stdet_deploy_stm32.quantize.int8 import asked_deviations, quantize_onnx
from stdet_deploy_stm32.quantize.options import read_options
from stdet_deploy_stm32.quantize.prepare import prepare
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.quantize.weights.four_bits import int4_weights

Build = Callable[..., ModelProto]
Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]
SIZES = {"w0": 216, "w1": 72, "w2": 64, "w3": 32, "w4": 16}  # 400 weights in all


def four_bits(weight: np.ndarray) -> np.ndarray:
    """Rounded channel by channel, written as a plain loop."""
    rows = []
    for channel in weight:
        step = float(np.abs(channel).max()) / 7
        rows.append(np.round(channel / step).clip(-7, 7) * step)
    return np.array(rows, np.float32)


def noise(real: ModelProto, name: str, photos: CalibrationData) -> float:
    """Noise by signal of the output with only weight `name` in 4 bits."""
    rough = ModelProto.FromString(real.SerializeToString())
    (tensor,) = (t for t in rough.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(four_bits(numpy_helper.to_array(tensor)), name))
    sessions = [new_session(m.SerializeToString()) for m in (real, rough)]
    signal = error = 0.0
    for image in list(photos.batches())[:4]:
        x, y = (session.run(None, {"image": image})[0].astype(np.float64) for session in sessions)
        signal, error = signal + float((x**2).sum()), error + float(((x - y) ** 2).sum())
    return error / signal


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 1.0])
def test_the_weights_that_cost_least_by_byte_become_int4_within_the_share(
    saved: Path, photos: Photos, section: Section, share: float
) -> None:
    model = prepare(saved, 21)
    chosen, used = int4_weights(model, photos(), read_options(section(target_opset=21)), share)
    expected, taken = [], 0
    for name in sorted(SIZES, key=lambda n: noise(model, n, photos()) / SIZES[n]):
        if taken + SIZES[name] <= share * 400:
            expected.append(name)
            taken += SIZES[name]
    assert [o.tensor for o in chosen] == expected
    assert used == pytest.approx(taken / 400)
    assert used <= share


def test_the_file_holds_them_in_4_bits_by_channel_and_nothing_else_leaves_the_form(
    saved: Path, tmp_path: Path, photos: Photos, section: Section
) -> None:
    options = section(target_opset=21, extra={"Int4Share": 0.6, "SequentialMSE": True, "BiasCorrection": True})
    record = quantize_onnx(saved, tmp_path / "q.onnx", photos(), options)
    model = onnx.load(tmp_path / "q.onnx")
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    narrow = {name for name in SIZES if kinds[f"{name}_quantized"] == TensorProto.INT4}
    assert narrow == set(record["int4"]["tensors"])
    assert 0.3 < record["int4"]["share_of_weight_bytes"] <= 0.6
    assert {kinds[f"{name}_quantized"] for name in SIZES.keys() - narrow} == {TensorProto.INT8}
    scales = {t.name: t.dims[0] for t in model.graph.initializer if t.name.endswith("_scale") and t.dims}
    assert all(scales[f"{name}_scale"] == {"w3": 4, "w4": 2}.get(name, 8) for name in SIZES)
    errors = [finding for finding in check_form(model) if finding.level == "error"]
    assert {finding.rule for finding in errors} == {"weight-type"}
    assert len(errors) == len(narrow)
    assert record["refitted"]["layers"] == 5


def test_int4_alone_asks_for_no_other_deviation(section: Section) -> None:
    override = [["w0", {"quant_type": "Int4", "axis": 0}]]
    settings = read_options(section(target_opset=21, extra={"weights_tensor_override": override}))
    assert asked_deviations(settings) == {"weight-type"}
    loose = [["w0", {"quant_type": "UInt8"}]]
    settings = read_options(section(extra={"weights_tensor_override": loose}))
    assert asked_deviations(settings) == {"weight-type", "weight-asymmetric", "weight-per-tensor", "bias"}


def test_excluded_and_overridden_weights_are_left_alone(saved: Path, photos: Photos, section: Section) -> None:
    override = [["w3", {"quant_type": "Int8", "axis": 0}]]
    options = section(
        target_opset=21,
        params={"nodes_to_exclude": ["stem"]},
        extra={"weights_tensor_override": override},
    )
    chosen, used = int4_weights(prepare(saved, 21), photos(), read_options(options), 1.0)
    assert {o.tensor for o in chosen} == {"w1", "w2", "w4"}
    assert used == pytest.approx((72 + 64 + 16) / 184)
