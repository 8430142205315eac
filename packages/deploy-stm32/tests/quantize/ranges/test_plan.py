from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from stdet.config.schema import Quantization
from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.quantize.images import subset
from stdet_deploy_stm32.quantize.int8 import quantize_onnx
from stdet_deploy_stm32.quantize.prepare import prepare
from stdet_deploy_stm32.quantize.ranges.plan import plan_activations
from stdet_deploy_stm32.quantize.settings import read_options
from stdet_deploy_stm32.quantize.steps.equalize import dominant_pairs
from stdet_deploy_stm32.quantize.steps.int16 import int16_tensors

Build = Callable[..., ModelProto]
Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]


def test_the_default_method_is_sensitivity_and_equalizes(section: Section) -> None:
    settings = read_options(section())
    assert (settings.method, settings.equalize, settings.int16_share) == ("Sensitivity", True, 0.0)
    assert not read_options(section(params={"calibrate_method": "MinMax"})).equalize


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


def test_the_percentile_is_obeyed(saved: Path, photos: Photos, section: Section) -> None:
    model = prepare(saved, 17)
    wide, narrow = (
        plan_activations(
            model, photos(), read_options(section(params={"calibrate_method": "Percentile", "percentile": p}))
        ).ranges["c1"]
        for p in (100.0, 90.0)
    )
    minmax = plan_activations(model, photos(), read_options(section(params={"calibrate_method": "MinMax"}))).ranges
    assert wide == pytest.approx(minmax["c1"])
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_aware_ranges_cut_the_flat_tail_and_nothing_else(
    saved: Path, photos: Photos, section: Section, tmp_path: Path, detector: Build
) -> None:
    model = detector()
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * 20, "w1"))
    onnx.save(model, tmp_path / "wide.onnx")
    prepared = prepare(tmp_path / "wide.onnx", 17)
    params = {"calibrate_method": "MinMax"}
    plain = plan_activations(prepared, photos(), read_options(section(params=params))).ranges
    aware = plan_activations(
        prepared, photos(), read_options(section(params=params, extra={"ActivationAwareRanges": True}))
    ).ranges
    assert plain["c1"][0] < -8
    assert aware["c1"] == (-8.0, plain["c1"][1])
    assert aware | {"c1": plain["c1"]} == plain


def test_sigmoids_have_a_step_of_a_256th(saved: Path, photos: Photos, section: Section) -> None:
    ranges = plan_activations(prepare(saved, 17), photos(), read_options(section())).ranges
    assert ranges["s1"] == ranges["scores"] == (0.0, 255 / 256)


def test_int16_goes_to_the_worst_tensors_within_the_budget(
    saved: Path, tmp_path: Path, photos: Photos, section: Section
) -> None:
    options = section(target_opset=21, extra={"Int16Share": 0.4})
    record = quantize_onnx(saved, tmp_path / "q.onnx", photos(), options)
    plain = quantize_onnx(saved, tmp_path / "p.onnx", photos(), section())
    chosen = record["int16"]["tensors"]
    assert chosen
    assert 0 < record["int16"]["share_of_activation_bytes"] <= 0.4
    kinds = {t.name: t.data_type for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert all(kinds[f"{name}_zero_point"] == TensorProto.INT16 for name in chosen)
    assert record["sqnr_db"]["output"] > plain["sqnr_db"]["output"]


def test_the_share_counts_bytes(detector: Build) -> None:
    """c1 and m1 have 8 x 8 x 8 elements each; everything together is counted by hand."""
    model = prepare_in_memory(detector())
    sizes = {"image": 768, "c0": 512, "r0": 512, "c1": 512, "s1": 512, "m1": 512, "c2": 512, "a2": 512, "boxes": 256,
             "logits": 128, "scores": 128, "joined": 384, "rows": 384, "output": 384}  # fmt: skip
    chosen, share = int16_tensors(model, {"c1": 5.0, "m1": 4.0, "boxes": 0.01}, 0.3)
    assert chosen == ["c1", "m1"]
    assert share == pytest.approx(2 * 1024 / (sum(sizes.values()) + 1024))
    assert int16_tensors(model, {"c1": 5.0, "m1": 4.0}, 0.2)[0] == ["c1"]
    assert int16_tensors(model, {"c1": 5.0, "m1": 4.0}, 0.0) == ([], 0.0)


def test_only_a_pair_that_dominates_is_equalized(detector: Build) -> None:
    model = detector()
    assert [p.tensors for p in dominant_pairs(model, {"c1": 2.0, "m1": 2.0, "a2": 5.0})] == [("c1", "m1")]
    assert dominant_pairs(model, {"c1": 0.5, "m1": 0.5, "a2": 5.0}) == []


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 4, 7]), (10, list(range(10))), (20, list(range(10)))])
def test_a_subset_is_spread_evenly(count: int, expected: list[int]) -> None:
    read: list[int] = []

    def image(index: int) -> np.ndarray:
        read.append(index)
        return np.full((1, 1), index)

    few = subset(CalibrationData(image, 10, "", "here"), count)
    assert [int(image.item()) for image in few.batches()] == read == expected
    assert few.count == len(expected)


def test_gradients_are_taken_of_as_many_images_as_asked(saved: Path, photos: Photos, section: Section) -> None:
    seen: list[tuple[int, int | None]] = []
    params, extra = {"sensitivity_images": 5}, {"CrossLayerEqualization": False}
    settings = read_options(section(params=params, extra=extra))
    plan_activations(prepare(saved, 17), photos(12), settings, lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 17) for i in range(17)]


def prepare_in_memory(model: ModelProto) -> ModelProto:
    return onnx.shape_inference.infer_shapes(model)
