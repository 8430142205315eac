"""Quantization: ranges against NumPy, the form, real I/O types, bounded memory, and a file only when all went well."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from stdet.config.schema import Quantization
from stdet.errors import QuantizationError, StdetError
from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.quantize.form import check_form
from stdet_deploy_stm32.quantize.histogram import Histogram
from stdet_deploy_stm32.quantize.ranges import METHODS, percentile_range
from stdet_deploy_stm32.quantize.recipe import quantize_onnx
from stdet_deploy_stm32.quantize.tail import unlike_joins


class Net(torch.nn.Module):
    """Convolutions, a depthwise one, a residual, and a head that joins boxes (wide) with scores (0..1)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(3, 8, 3, 2, 1)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.boxes, self.scores = torch.nn.Conv2d(8, 4, 1), torch.nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.depthwise(x) + x)
        return torch.cat((10 * self.boxes(x), self.scores(x).sigmoid()), 1).flatten(2).transpose(1, 2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    torch.onnx.export(Net().eval(), (torch.zeros(1, 3, 16, 16),), str(path), dynamo=False, opset_version=17)
    return path


def data(count: int = 6, size: int = 16, source: str = "folder", value: float = 1.0) -> CalibrationData:
    def batches() -> Iterator[np.ndarray]:
        for index in range(count):
            yield (np.random.default_rng(index).random((1, 3, size, size)) * value).astype(np.float32)

    return CalibrationData(batches, count, "0" * 64, source)


def quantize(model: Path, calibration: CalibrationData | None = None, **section: Any) -> tuple[Path, dict[str, Any]]:
    output = model.with_name("int8.onnx")
    return output, quantize_onnx(model, output, calibration or data(), Quantization(**section))


def run(path: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: image})[0])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_form_and_nearly_the_float_numbers(model: Path, method: str) -> None:
    output, record = quantize(model, onnx_quant_parameters={"calibrate_method": method})
    assert [f for f in check_form(onnx.load(output)) if f.level == "error"] == []
    image = next(data().batches())
    expected, found = run(model, image), run(output, image)
    assert np.abs(found - expected).max() < 0.06 * np.abs(expected).max()
    assert np.abs(found[..., 4:] - expected[..., 4:]).max() < 0.03
    assert record["calibration"]["images"] == 6


def test_weights_are_symmetric_per_channel_and_within_half_a_step(model: Path) -> None:
    output, _ = quantize(model)
    graph = onnx.load(output).graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    checked = 0
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        stored, scale = constants[node.input[0]], constants[node.input[1]]
        if stored.dtype != np.int8 or stored.ndim != 4:
            continue
        assert scale.shape == (stored.shape[0],)
        assert not constants[node.input[2]].any()
        matching = [w for w in Net().state_dict().values() if tuple(w.shape) == stored.shape]
        real = stored * scale.reshape(-1, 1, 1, 1)
        best = min(float(np.abs(real * f - w.numpy()).max() / scale.max()) for w in matching for f in (1.0, 0.1))
        assert best <= 0.51
        checked += 1
    assert checked == 4


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_input_and_output_types_are_real(model: Path, kind: str) -> None:
    output, _ = quantize(model, data(value=255.0), quantization_input_type=kind, quantization_output_type=kind)
    graph = onnx.load(output).graph
    wanted = TensorProto.UINT8 if kind == "uint8" else TensorProto.INT8
    assert graph.input[0].type.tensor_type.elem_type == wanted
    assert graph.output[0].type.tensor_type.elem_type == wanted
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16))
    fed = pixels.astype(np.uint8) if kind == "uint8" else (pixels - 128).astype(np.int8)
    assert run(output, fed).dtype == np.dtype(kind)


def test_scores_keep_a_scale_of_their_own(model: Path) -> None:
    _, record = quantize(model)
    assert len(record["float_joins"]) >= 1
    ranges = {"a": (-10.0, 10.0), "b": (0.0, 1.0), "c": (0.0, 1.2)}
    for inputs, count in ((("a", "b"), 1), (("b", "c"), 0)):
        node = onnx.helper.make_node("Concat", inputs, ["y"], name="join", axis=1)
        values = [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
        graph = onnx.helper.make_graph([node], "g", [], values)
        assert len(unlike_joins(onnx.helper.make_model(graph), ranges)) == count


def test_the_same_input_gives_the_same_bytes(model: Path) -> None:
    first = quantize(model)[0].read_bytes()
    assert quantize(model)[0].read_bytes() == first


@pytest.mark.parametrize(
    ("calibration", "section", "message"),
    [
        (data(0), {}, "no calibration images"),
        (data(size=8), {}, "calibration image 0"),
        (data(value=float("nan")), {}, "not finite"),
        (None, {"target_opset": 13}, "can't be lowered"),
        (None, {"onnx_quant_parameters": {"calibrate_method": "MinMac"}}, "allowed: MinMax"),
        (None, {"onnx_quant_parameters": {"nodes_to_exclude": ["/stem/Con"]}}, "nearest: `/stem/Conv`"),
        (
            None,
            {"onnx_extra_options": {"weights_tensor_override": [["stem.weigh", {"quant_type": "Int8"}]]}},
            "nearest",
        ),
        (None, {"onnx_quant_parameters": {"activType": "Int16"}}, "opset 21"),
        (None, {"onnx_extra_options": {"WeightSymmetric": False}}, "per_channel"),
    ],
)
def test_what_can_not_be_done_is_said_and_leaves_no_file(
    model: Path, calibration: CalibrationData | None, section: dict[str, Any], message: str
) -> None:
    with pytest.raises(StdetError, match=message):
        quantize(model, calibration, **section)
    assert sorted(p.name for p in model.parent.iterdir()) == ["net.onnx"]


def test_an_int8_model_is_not_quantized_again(model: Path) -> None:
    output, _ = quantize(model)
    with pytest.raises(QuantizationError, match="already quantized"):
        quantize_onnx(output, model.with_name("again.onnx"), data(), Quantization())


def test_a_dynamic_batch_becomes_one_and_other_dynamic_sizes_are_refused(tmp_path: Path) -> None:
    for axes, good in (({0: "batch"}, True), ({2: "height"}, False)):
        path = tmp_path / "net.onnx"
        torch.onnx.export(
            Net().eval(), (torch.zeros(1, 3, 16, 16),), str(path), dynamo=False, opset_version=17,
            input_names=["input"], dynamic_axes={"input": axes},
        )  # fmt: skip
        if good:
            output, _ = quantize(path)
            assert onnx.load(output).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
        else:
            with pytest.raises(StdetError, match="dynamic"):
                quantize(path)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), parts=st.integers(1, 5), spread=st.floats(0.01, 1000))
def test_a_histogram_does_not_depend_on_how_the_values_came(seed: int, parts: int, spread: float) -> None:
    values = (np.random.default_rng(seed).standard_normal(4000) * spread).astype(np.float32)
    whole, split = Histogram(), Histogram()
    whole.add(values)
    for part in np.array_split(np.random.default_rng(seed + 1).permutation(values), parts):
        split.add(part)
    assert whole.exponent == split.exponent
    assert np.array_equal(whole.counts, split.counts)
    assert whole.counts.sum() == 4000
    low, high = percentile_range(whole, 99.0)
    exact = np.percentile(values, [0.5, 99.5])
    np.testing.assert_allclose([low, high], exact, atol=2 * whole.width + 0.02 * spread)


def test_a_constant_activation_is_fine_with_every_method() -> None:
    for make in METHODS.values():
        observer = make()
        for _ in range(3):
            observer.update(np.zeros((1, 4, 8, 8), np.float32))
        assert observer.range() == (0.0, 0.0)
