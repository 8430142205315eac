"""Sequential MSE: what a layer's result loses, against torch's convolution and against roundings found by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.quantize.form.check import check_form
from stdet_deploy_stm32.quantize.int8 import Int8, make_int8, quantize_onnx
from stdet_deploy_stm32.quantize.options import read_options
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.quantize.weights import refitting
from stdet_deploy_stm32.quantize.weights.refitting import Layer

Build = Callable[..., ModelProto]
Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]
REFIT = {"SequentialMSE": True}


def arrays(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def lost(made: Int8, photos: CalibrationData, name: str) -> float:
    """Mean squared error of a convolution's result that its stored weights make, given its int8 input."""
    (real,) = (node for node in made.floating.graph.node if node.name == name)
    (node,) = (node for node in made.inside.graph.node if node.name == name)
    weight = torch.from_numpy(arrays(made.floating)[real.input[1]].copy())
    a = {a.name: helper.get_attribute_value(a) for a in real.attribute}
    watched = ModelProto.FromString(made.inside.SerializeToString())
    watched.graph.output.extend(ValueInfoProto(name=n) for n in node.input[:2])
    session = new_session(watched.SerializeToString(), optimize=False)
    errors = []
    for image in photos.batches():
        x, stored = (torch.from_numpy(v) for v in session.run(list(node.input[:2]), {"image": image}))
        place = (a.get("strides", [1, 1]), a.get("pads", [0, 0])[:2], 1, a.get("group", 1))
        errors.append(float((F.conv2d(x, weight, None, *place) - F.conv2d(x, stored, None, *place)).square().mean()))
    return float(np.mean(errors))


def test_weights_of_equal_inputs_share_one_rounding(
    graph: Build, tmp_path: Path, section: Section, photos: Photos
) -> None:
    """0.4 and 0.4 of a step round to 0 and 0; on channels that are always equal, 1 and 0 lose a quarter of that."""
    nodes = [
        helper.make_node("Concat", ["image", "image", "image"], ["three"], "concat", axis=1),
        helper.make_node("Conv", ["three", "w"], ["y"], "conv", kernel_shape=[1, 1]),
    ]
    weight = np.array([0.4, 0.4, 127, 0, 0.4, 0.4, 0, 127], np.float32).reshape(2, 4, 1, 1)[:, :3]
    onnx.save(graph(nodes, {"w": weight.copy()}, {"image": [1, 1, 16, 16]}, {"y": [1, 2, 16, 16]}), tmp_path / "f.onnx")
    override = [["w", {"scale": [1.0, 1.0], "zero_point": [0, 0], "axis": 0}]]
    extra = {"weights_tensor_override": override}
    found = {}
    for name, options in (("plain", extra), ("refit", extra | REFIT)):
        made = make_int8(
            tmp_path / "f.onnx", photos(channels=1), section(params={"calibrate_method": "MinMax"}, extra=options)
        )
        found[name] = arrays(made.inside)["w_quantized"][:, :, 0, 0].astype(int)
        assert np.all(arrays(made.inside)["w_scale"] == 1.0)
    assert found["plain"].tolist() == [[0, 0, 127], [0, 0, 0]]
    assert found["refit"].sum(axis=1).tolist() == [128, 1]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"granularity": "per_tensor"},
        {"params": {"calibrate_method": "MinMax", "weightType": "Int4"}, "target_opset": 21},
        {"params": {"calibrate_method": "MSE", "activType": "Int16"}, "target_opset": 21},
    ],
)
def test_every_layer_loses_less(saved: Path, photos: Photos, section: Section, options: dict[str, Any]) -> None:
    plain = make_int8(saved, photos(), section(**options))
    made = make_int8(saved, photos(), section(**options, extra=REFIT))
    layers = ("stem", "depthwise", "pointwise", "box_head", "score_head")
    before, after = ([lost(m, photos(), name) for name in layers] for m in (plain, made))
    assert all(a < b for a, b in zip(after, before, strict=True))
    assert np.mean(np.array(after) / before) < 0.7
    assert made.record["refitted"]["layers"] == 5
    assert 0 < made.record["refitted"]["median_cost"] < 0.7
    kinds = [{t.data_type for t in m.inside.graph.initializer if t.name.endswith("_quantized")} for m in (plain, made)]
    assert kinds[0] - {TensorProto.INT32} == kinds[1] - {TensorProto.INT32}
    if "params" not in options:
        allowed = {"weight-per-tensor"} if options else set()
        assert {f.rule for f in check_form(made.model) if f.level == "error"} == allowed


def test_it_goes_with_bias_correction_and_gives_the_same_bytes_again(
    saved: Path, tmp_path: Path, photos: Photos, section: Section
) -> None:
    seen: list[tuple[int, int | None]] = []
    for name in ("a", "b"):
        record = quantize_onnx(
            saved,
            tmp_path / name,
            photos(),
            section(extra=REFIT | {"BiasCorrection": True}),
            lambda done, total: seen.append((done, total)),
        )
        assert record["bias_corrected"] == record["refitted"]["layers"] == 5
        assert seen[-10:] == [(i + 1, 5) for i in range(5)] * 2
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_fully_connected_layers_and_products_are_refitted(
    graph: Build, tmp_path: Path, section: Section, photos: Photos
) -> None:
    rng = np.random.default_rng(1)
    make = helper.make_node
    nodes = [
        make("GlobalAveragePool", ["image"], ["g"], "pool"),
        make("Flatten", ["g"], ["f"], "flatten"),
        make("Gemm", ["f", "w0", "b0"], ["h"], "rows", transB=1),
        make("Relu", ["h"], ["r"], "relu"),
        make("Gemm", ["r", "w1"], ["k"], "columns"),
        make("MatMul", ["k", "w2"], ["y"], "product"),
    ]
    constants = {
        "w0": rng.normal(0, 1, (8, 3)).astype(np.float32), "b0": rng.normal(0, 1, 8).astype(np.float32),
        "w1": rng.normal(0, 1, (8, 5)).astype(np.float32), "w2": rng.normal(0, 1, (5, 2)).astype(np.float32),
    }  # fmt: skip
    onnx.save(graph(nodes, constants, {"image": [1, 3, 16, 16]}, {"y": [1, 2]}), tmp_path / "f.onnx")
    options = {"params": {"weightType": "Int4"}, "target_opset": 21}
    plain = make_int8(tmp_path / "f.onnx", photos(), section(**options))
    made = make_int8(tmp_path / "f.onnx", photos(), section(**options, extra=REFIT))
    assert made.record["refitted"]["layers"] == 3
    assert made.record["sqnr_db"]["y"] > plain.record["sqnr_db"]["y"]


def test_a_scale_is_not_made_smaller_than_the_bias_allows(
    graph: Build, tmp_path: Path, section: Section, photos: Photos
) -> None:
    """The bias takes 95 % of 32 bits. Four bits would rather have a smaller scale, which would cut the bias."""
    weight = np.random.default_rng(0).normal(0, 1, (2, 3, 3, 3)).astype(np.float32)
    weight *= 7 / np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    node = helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv", kernel_shape=[3, 3])
    constants = {"w": weight, "b": np.full(2, 0.95 * 2**31, np.float32)}
    onnx.save(graph([node], constants, {"image": [1, 3, 16, 16]}, {"y": [1, 2, 14, 14]}), tmp_path / "f.onnx")
    params = {"calibrate_method": "MinMax", "weightType": "Int4"}
    plain = make_int8(tmp_path / "f.onnx", photos(), section(params=params, target_opset=21))
    made = make_int8(tmp_path / "f.onnx", photos(), section(params=params, target_opset=21, extra=REFIT))
    assert made.record["refitted"]["layers"] == 1
    assert made.record["sqnr_db"]["y"] > plain.record["sqnr_db"]["y"] - 1


def test_a_layer_too_wide_for_its_matrix_keeps_its_rounding(
    monkeypatch: pytest.MonkeyPatch, saved: Path, photos: Photos, section: Section
) -> None:
    monkeypatch.setattr(refitting, "_WIDEST", 9)
    made = make_int8(saved, photos(), section(extra=REFIT))
    plain = make_int8(saved, photos(), section())
    assert made.record["refitted"]["layers"] == 4
    assert np.array_equal(arrays(made.inside)["w0_quantized"], arrays(plain.inside)["w0_quantized"])


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((4, 6, 3, 3), {}),
        ((4, 3, 3, 2), {"strides": [2, 1], "pads": [1, 0, 2, 1], "group": 2}),
        ((6, 1, 3, 3), {"dilations": [2, 1], "group": 6}),
        ((6, 1, 2, 3), {"strides": [2, 2], "group": 6, "auto_pad": "SAME_UPPER"}),
    ],
)
def test_patches_are_what_a_convolution_multiplies(
    graph: Build, shape: tuple[int, ...], attributes: dict[str, Any]
) -> None:
    rng = np.random.default_rng(2)
    weight = rng.normal(0, 1, shape).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", kernel_shape=shape[2:], **attributes)
    x = rng.normal(0, 1, (1, 6, 9, 8)).astype(np.float32)
    model = graph([node], {"w": weight}, {"x": list(x.shape)}, {"y": [1, shape[0], None, None]})
    (expected,) = new_session(model.SerializeToString()).run(None, {"x": x})
    groups = attributes.get("group", 1)
    matrix = torch.from_numpy(weight.reshape(groups, shape[0] // groups, -1))
    layer = Layer(node, node, node, 0, matrix, shape, torch.ones(1), torch.zeros(1), 127)
    found = matrix @ layer.patches(x, torch.Generator().manual_seed(5))
    places = expected[0, 0].size
    order = torch.randperm(places, generator=torch.Generator().manual_seed(5))
    assert np.allclose(found.reshape(shape[0], -1), expected[0].reshape(shape[0], -1)[:, order], atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"params": {"weightType": "UInt8", "activType": "UInt8"}},
        {"params": {"weightType": "Int16"}, "target_opset": 21},
        {"granularity": "per_tensor", "extra": {"WeightSymmetric": False}},
    ],
)
def test_it_is_refused_for_weights_that_are_not_symmetric(section: Section, options: dict[str, Any]) -> None:
    with pytest.raises(QuantizationError, match="SequentialMSE has no meaning"):
        read_options(section(**options | {"extra": options.get("extra", {}) | REFIT}))
