from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.surgery import sort_nodes
from stdet_deploy_stm32.quantize.form.check import check_form
from stdet_deploy_stm32.quantize.form.rewrite import rewrite_into_form
from stdet_deploy_stm32.quantize.int8 import quantize_onnx

Photos = Callable[..., CalibrationData]


def rules(model: ModelProto) -> set[str]:
    return {finding.rule for finding in check_form(model)}


def run(model: ModelProto, image: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: image})[0])


@pytest.fixture
def good(saved: Path, tmp_path: Path, photos: Photos, section: Any) -> ModelProto:
    quantize_onnx(saved, tmp_path / "good.onnx", photos(), section(quantization_output_type="int8"))
    return onnx.load(tmp_path / "good.onnx")


@pytest.fixture
def foreign(saved: Path, tmp_path: Path, reader: Callable[[], CalibrationDataReader]) -> Callable[..., ModelProto]:
    """What onnxruntime's own pipeline writes with other settings than ST's."""

    def build(activations: QuantType = QuantType.QUInt8, **options: Any) -> ModelProto:
        quantize_static(
            saved, tmp_path / "foreign.onnx", reader(), per_channel=True, activation_type=activations,
            weight_type=QuantType.QInt8, extra_options=options,
        )  # fmt: skip
        return onnx.load(tmp_path / "foreign.onnx")

    return build


@pytest.mark.parametrize(
    ("options", "broken"),
    [
        ({}, {"activation-type"}),
        ({"UseQDQContribOps": True}, {"activation-type", "domain"}),
        ({"AddQDQPairToWeight": True}, {"activation-type", "weight-float"}),
        ({"QuantizeBias": False}, {"activation-type", "bias"}),
        ({"activations": QuantType.QInt8, "UseQDQContribOps": True}, {"domain"}),
    ],
)
def test_other_tools_files_are_brought_into_the_form(
    foreign: Callable[..., ModelProto], photos: Photos, options: dict[str, Any], broken: set[str]
) -> None:
    model = foreign(**options)
    assert broken <= rules(model)
    image = next(photos(1).batches())
    before = run(model, image)
    rewrite_into_form(model)
    sort_nodes(model)
    onnx.checker.check_model(model, full_check=True)
    assert [f for f in check_form(model) if f.level == "error"] == []
    after = run(model, image)
    tolerance = 0.0 if "QuantizeBias" not in options else 0.1
    assert np.abs(before - after).max() <= tolerance + 1e-6


def test_noted_types_of_inner_tensors_follow_the_change_to_int8(
    foreign: Callable[..., ModelProto], photos: Photos
) -> None:
    """NNCF notes them; a note of uint8 on what is int8 now keeps onnxruntime from loading the file."""
    image = next(photos(1).batches())
    expected = run(foreign(), image)
    model = onnx.shape_inference.infer_shapes(foreign())
    assert any(v.type.tensor_type.elem_type == onnx.TensorProto.UINT8 for v in model.graph.value_info)
    rewrite_into_form(model)
    np.testing.assert_allclose(run(model, image), expected, atol=1e-5)


def test_a_model_in_the_form_is_not_changed(good: ModelProto) -> None:
    copy = ModelProto()
    copy.CopyFrom(good)
    rewrite_into_form(copy)
    assert copy.SerializeToString(deterministic=True) == good.SerializeToString(deterministic=True)


def find(model: ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def store(model: ModelProto, name: str, value: np.ndarray) -> None:
    find(model, name).CopyFrom(numpy_helper.from_array(value, name))


def foreign_import(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def foreign_node(model: ModelProto) -> None:
    model.graph.node[3].domain = "com.microsoft"


def dynamic_batch(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def batch_of_two(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def asymmetric_weight(model: ModelProto) -> None:
    store(model, "w2_zero_point", np.full(8, 3, np.int8))


def wide_weight(model: ModelProto) -> None:
    store(model, "w2_quantized", np.zeros((8, 8, 1, 1), np.int16))


def one_scale(model: ModelProto) -> None:
    store(model, "w2_scale", np.array(0.1, np.float32))


def wrong_axis(model: ModelProto) -> None:
    dq = next(n for n in model.graph.node if n.input[0] == "w2_quantized")
    next(a for a in dq.attribute if a.name == "axis").i = 1


def wrong_bias_scale(model: ModelProto) -> None:
    store(model, "b2_quantized_scale", np.full(8, 0.5, np.float32))


def float_bias(model: ModelProto) -> None:
    next(n for n in model.graph.node if n.name == "pointwise").input[2] = "b2_scale_as_bias"
    model.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "b2_scale_as_bias"))


def unsigned_activation(model: ModelProto) -> None:
    store(model, "c1_zero_point", np.array(3, np.uint8))


def scales_of_channels(model: ModelProto) -> None:
    channels = find(model, "b1_quantized").dims[0]
    store(model, "c1_scale", np.full(channels, 0.1, np.float32))
    store(model, "c1_zero_point", np.zeros(channels, np.int8))


def float_operator(model: ModelProto) -> None:
    add = next(n for n in model.graph.node if n.op_type == "Add")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "loose"))
    add.input[1] = "loose"


@pytest.mark.parametrize(
    ("plant", "rule"),
    [
        (foreign_import, "domain"),
        (foreign_node, "domain"),
        (dynamic_batch, "shape"),
        (batch_of_two, "shape"),
        (asymmetric_weight, "weight-asymmetric"),
        (wide_weight, "weight-type"),
        (one_scale, "weight-per-tensor"),
        (wrong_axis, "weight-per-tensor"),
        (wrong_bias_scale, "bias"),
        (float_bias, "bias"),
        (unsigned_activation, "activation-type"),
        (scales_of_channels, "activation-per-channel"),
        (float_operator, "float"),
    ],
)
def test_each_planted_fault_is_found(good: ModelProto, plant: Callable[[ModelProto], None], rule: str) -> None:
    assert check_form(good) == []
    plant(good)
    assert rule in rules(good)
