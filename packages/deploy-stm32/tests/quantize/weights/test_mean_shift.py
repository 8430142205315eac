"""Bias correction: the mean of each channel, against means taken by plain whole-model runs and by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.quantize.form.check import check_form
from stdet_deploy_stm32.quantize.int8 import Int8, make_int8, quantize_onnx
from stdet_deploy_stm32.quantize.options import read_options
from stdet_deploy_stm32.quantize.prepare import prepare
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.quantize.steps import methods
from stdet_deploy_stm32.quantize.weights.sweep import SWEEP_IMAGES, Sweep

Build = Callable[..., ModelProto]
Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]
CORRECTED = {"BiasCorrection": True}


def all_values(model: ModelProto, names: list[str], image: np.ndarray) -> list[np.ndarray]:
    """The tensors `names` of the whole model, as it is written."""
    watched = ModelProto.FromString(model.SerializeToString())
    present = {value.name for value in watched.graph.output}
    watched.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in present)
    return list(new_session(watched.SerializeToString(), optimize=False).run(names, {"image": image}))


def weight_errors(made: Int8, photos: CalibrationData, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One step of the bias, and the mean error of each channel of convolution `name` given its int8 input."""
    (real,) = (node for node in made.floating.graph.node if node.name == name)
    (node,) = (node for node in made.inside.graph.node if node.name == name)
    floats = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in made.floating.graph.initializer}
    constants = {t.name: numpy_helper.to_array(t) for t in made.inside.graph.initializer}
    (dq,) = (n for n in made.inside.graph.node if node.input[2] in n.output)
    a = {a.name: helper.get_attribute_value(a) for a in real.attribute}
    weight, bias = floats[real.input[1]], floats[real.input[2]] if len(real.input) > 2 else None
    errors = []
    for image in photos.batches():
        x, y = all_values(made.inside, [node.input[0], node.output[0]], image)
        if real.op_type == "Gemm":
            wanted = F.linear(torch.from_numpy(x), weight, bias)
        else:
            place = (a.get("strides", [1, 1]), a.get("pads", [0, 0])[:2], 1, a.get("group", 1))
            wanted = F.conv2d(torch.from_numpy(x), weight, bias, *place)
        errors.append((y - wanted.numpy()).mean(axis=(0, *range(2, x.ndim)), dtype=np.float64))
    return constants[dq.input[1]], np.mean(errors, axis=0)


def test_the_bias_takes_back_what_a_hand_made_layer_loses(
    graph: Build, tmp_path: Path, section: Section, photos: Photos
) -> None:
    """Weights 127, 0.4, -0.3 are stored as 127, 0, 0 with scale 1; the input is quantized exactly."""
    node = helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv", kernel_shape=[1, 1])
    weight = np.array([127, 0.4, -0.3], np.float32).reshape(1, 3, 1, 1)
    model = graph(
        [node], {"w": weight, "b": np.full(1, 10, np.float32)}, {"image": [1, 3, 16, 16]}, {"y": [1, 1, 16, 16]}
    )
    onnx.save(model, tmp_path / "f.onnx")
    params = {"calibrate_method": "MinMax"}
    plain = make_int8(tmp_path / "f.onnx", photos(), section(params=params))
    corrected = make_int8(tmp_path / "f.onnx", photos(), section(params=params, extra=CORRECTED))

    means = np.mean([image.mean(axis=(0, 2, 3)) for image in photos().batches()], axis=0)
    lost = 0.4 * means[1] - 0.3 * means[2]
    assert abs(lost) > 5
    assert weight_errors(plain, photos(), "conv")[1] == pytest.approx(-lost, abs=1e-2)
    (bias,) = (numpy_helper.to_array(t) for t in corrected.inside.graph.initializer if t.name.endswith("_int32"))
    assert bias.dtype == np.int32
    assert bias.tolist() == [round(10 + lost)]


@pytest.mark.parametrize("method", methods())
def test_rounded_weights_shift_no_channel_whatever_the_method(
    saved: Path, photos: Photos, section: Section, method: str
) -> None:
    """The layer's own input through torch's convolution with the float weights is what the mean must be."""
    params = {"calibrate_method": method}
    plain = make_int8(saved, photos(), section(params=params))
    made = make_int8(saved, photos(), section(params=params, extra=CORRECTED))
    for name in ("stem", "depthwise", "pointwise", "box_head", "score_head"):
        step, errors = weight_errors(made, photos(), name)
        assert np.all(np.abs(errors) <= 0.51 * step + 1e-5), name
        assert np.abs(errors).max() < np.abs(weight_errors(plain, photos(), name)[1]).max()
    assert made.record["bias_corrected"] == 5
    assert made.record["options"]["bias_correction"]
    assert not [finding for finding in check_form(made.model) if finding.level == "error"]


def test_layers_without_a_bias_get_one_and_a_fully_connected_layer_is_corrected(
    graph: Build, tmp_path: Path, section: Section, photos: Photos
) -> None:
    rng = np.random.default_rng(1)
    make = helper.make_node
    nodes = [
        make("Conv", ["image", "w0"], ["c"], "conv", kernel_shape=[3, 3], strides=[2, 2]),
        make("Relu", ["c"], ["r"], "relu"),
        make("GlobalAveragePool", ["r"], ["g"], "pool"),
        make("Flatten", ["g"], ["f"], "flatten"),
        make("Gemm", ["f", "w1", "b1"], ["y"], "gemm", transB=1),
    ]
    constants = {
        "w0": rng.normal(0, 0.01, (8, 3, 3, 3)).astype(np.float32),
        "w1": rng.normal(0, 1, (5, 8)).astype(np.float32), "b1": rng.normal(0, 1, 5).astype(np.float32),
    }  # fmt: skip
    onnx.save(graph(nodes, constants, {"image": [1, 3, 16, 16]}, {"y": [1, 5]}), tmp_path / "f.onnx")
    made = make_int8(tmp_path / "f.onnx", photos(), section(extra=CORRECTED))
    assert made.record["bias_corrected"] == 2
    for name in ("conv", "gemm"):
        step, errors = weight_errors(made, photos(), name)
        assert np.all(np.abs(errors) <= 0.51 * step + 1e-5), name


def test_two_layers_of_the_same_weights_are_corrected_each_by_itself(
    graph: Build, tmp_path: Path, section: Section, photos: Photos
) -> None:
    rng = np.random.default_rng(1)
    make = helper.make_node
    nodes = [
        make("Conv", ["image", "w", "b"], ["c0"], "first", kernel_shape=[1, 1]),
        make("Relu", ["c0"], ["r"], "relu"),
        make("Conv", ["r", "w", "b"], ["y"], "second", kernel_shape=[1, 1]),
    ]
    constants = {"w": rng.normal(0, 1, (3, 3, 1, 1)).astype(np.float32), "b": np.ones(3, np.float32)}
    onnx.save(graph(nodes, constants, {"image": [1, 3, 16, 16]}, {"y": [1, 3, 16, 16]}), tmp_path / "f.onnx")
    made = make_int8(tmp_path / "f.onnx", photos(), section(extra=CORRECTED))
    for name in ("first", "second"):
        step, errors = weight_errors(made, photos(), name)
        assert np.all(np.abs(errors) <= 0.51 * step + 1e-4), name


def test_layers_left_in_float_keep_their_biases(saved: Path, photos: Photos, section: Section, detector: Build) -> None:
    made = make_int8(saved, photos(), section(params={"nodes_to_exclude": ["pointwise"]}, extra=CORRECTED))
    kept = {t.name: numpy_helper.to_array(t) for t in made.inside.graph.initializer}
    given = {t.name: numpy_helper.to_array(t) for t in detector().graph.initializer}
    assert np.array_equal(kept["b2"], given["b2"])
    assert made.record["bias_corrected"] == 4


def test_the_same_images_give_the_same_bytes(saved: Path, tmp_path: Path, photos: Photos, section: Section) -> None:
    for name in ("a", "b"):
        quantize_onnx(saved, tmp_path / name, photos(), section(extra=CORRECTED))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_it_is_refused_without_integer_biases(section: Section) -> None:
    with pytest.raises(QuantizationError, match="BiasCorrection has no meaning") as caught:
        read_options(section(extra=CORRECTED | {"QuantizeBias": False}))
    assert "QuantizeBias: True" in str(caught.value.hint)


def test_a_bounded_number_of_images_is_held_and_each_layer_is_reported(
    saved: Path, photos: Photos, section: Section
) -> None:
    seen: list[tuple[int, int | None]] = []
    made = make_int8(
        saved,
        photos(SWEEP_IMAGES + 7),
        section(params={"calibrate_method": "MinMax"}, extra=CORRECTED),
        lambda done, total: seen.append((done, total)),
    )
    assert seen[-5:] == [(i + 1, 5) for i in range(5)]
    held: list[int] = []

    def counted(index: int) -> np.ndarray:
        held.append(index)
        return photos(3).image(index)

    sweep = Sweep(made.inside, dataclasses.replace(photos(3), image=counted).batches())
    assert len(held) == 3
    list(sweep.run(["c1"], ["c1", "c2"]))
    assert [{value.dtype.name for value in known.values()} for known in sweep._held] == [{"int8"}] * 3


def test_a_sweep_computes_what_the_whole_model_computes(saved: Path, photos: Photos, section: Section) -> None:
    made = make_int8(saved, photos(), section())
    names: list[Any] = [n.output[0] for n in made.inside.graph.node if n.op_type == "Conv"]
    sweep = Sweep(made.inside, photos().batches())
    for index, name in enumerate(names):
        for (value,), image in zip(sweep.run([name], names[index:]), photos().batches(), strict=True):
            assert np.array_equal(value, all_values(made.inside, [name], image)[0])


def test_nodes_of_one_name_and_layers_of_one_weight_are_told_apart(detector: Build, tmp_path: Path) -> None:
    model = detector()
    for node in model.graph.node:
        node.name = "same"
        if node.op_type == "Conv" and node.input[1] == "w4":
            node.input[:] = ["m1", "w3", "b3"]
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 8, -1], np.int64), "flat8"))
    model.graph.node[-2].input[1] = "flat8"
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 8
    onnx.save(model, tmp_path / "f.onnx")
    prepared = prepare(tmp_path / "f.onnx", 17)
    names = [node.name for node in prepared.graph.node]
    weights = [node.input[1] for node in prepared.graph.node if node.op_type == "Conv"]
    assert len(set(names)) == len(names)
    assert len(set(weights)) == len(weights) == 5
