from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from stdet.errors import ArtifactError, QuantizationError
from stdet.export.metadata import write_metadata
from stdet.interfaces.deploy import CalibrationData
from stdet.structures import DetectorSpec, Preprocess
from stdet_deploy_stm32.bench.estimate import estimate
from stdet_deploy_stm32.boards import boards
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.quantize import int8
from stdet_deploy_stm32.quantize.form.check import check_form
from stdet_deploy_stm32.quantize.int8 import METADATA_KEY, quantize_onnx
from stdet_deploy_stm32.quantize.prepare import prepare
from stdet_deploy_stm32.quantize.section import Quantization
from stdet_deploy_stm32.quantize.steps import methods
from stdet_deploy_stm32.quantize.weights.smoothing import smooth

Build = Callable[..., ModelProto]
Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]


def run(model: Path | ModelProto, image: np.ndarray) -> np.ndarray:
    session = new_session(model.SerializeToString() if isinstance(model, ModelProto) else model)
    return np.asarray(session.run(None, {session.get_inputs()[0].name: image})[0])


def arrays(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.fixture
def quantized(saved: Path, tmp_path: Path, section: Section, photos: Photos) -> Callable[..., ModelProto]:
    """Quantizes the miniature detector and returns the file's content."""

    def build(**options: Any) -> ModelProto:
        out = tmp_path / "int8.onnx"
        quantize_onnx(saved, out, photos(), section(**options))
        return onnx.load(out)

    return build


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
def test_weights_are_within_half_a_step_of_the_float_ones(
    quantized: Callable[..., ModelProto], detector: Build, granularity: str
) -> None:
    model, real = quantized(granularity=granularity), arrays(detector())
    stored = arrays(model)
    for name in ("w0", "w1", "w2", "w3", "w4"):
        scale = stored[f"{name}_scale"]
        assert scale.shape == ((len(real[name]),) if granularity == "per_channel" else ())
        steps = scale.reshape(-1, 1, 1, 1)
        assert stored[f"{name}_quantized"].dtype == np.int8
        assert np.all(np.abs(stored[f"{name}_quantized"] * steps - real[name]) <= steps * 0.5001)
        largest = np.abs(real[name]).reshape(len(real[name]), -1).max(1) if scale.ndim else np.abs(real[name]).max()
        assert np.allclose(scale, largest / 127)


def test_a_quantized_convolution_computes_what_numpy_computes(
    graph: Build, tmp_path: Path, section: Section, photos: Photos
) -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(0, 1, (4, 3, 1, 1)).astype(np.float32), rng.normal(0, 30, 4).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", kernel_shape=[1, 1])
    onnx.save(
        graph([node], {"w": weight, "b": bias}, {"x": [1, 3, 16, 16]}, {"y": [1, 4, 16, 16]}), tmp_path / "f.onnx"
    )
    quantize_onnx(tmp_path / "f.onnx", tmp_path / "q.onnx", photos(), section())
    c = arrays(onnx.load(tmp_path / "q.onnx"))
    image = next(photos(1).batches())

    x = np.clip(np.rint(image / c["x_scale"]) + c["x_zero_point"], -128, 127).astype(np.int64) - int(c["x_zero_point"])
    accumulator = np.einsum("oi,nihw->nohw", c["w_quantized"][:, :, 0, 0].astype(np.int64), x)
    accumulator += c["b_quantized"].astype(np.int64)[:, None, None]
    real = accumulator * (c["x_scale"] * c["w_scale"].astype(np.float64))[:, None, None]
    y = np.clip(np.rint(real / c["y_scale"]) + c["y_zero_point"], -128, 127)
    expected = (y - int(c["y_zero_point"])) * c["y_scale"]
    difference = np.abs(run(tmp_path / "q.onnx", image) - expected)
    assert difference.max() <= c["y_scale"] * 1.001  # a tie may round the other way in float32
    assert np.mean(difference > 1e-4) < 0.01


@pytest.mark.parametrize("average", [False, True])
def test_minmax_gives_the_scales_of_onnxruntimes_own_pipeline(
    saved: Path,
    tmp_path: Path,
    photos: Photos,
    reader: Callable[[], CalibrationDataReader],
    section: Section,
    average: bool,
) -> None:
    options = {"WeightSymmetric": True, "ActivationSymmetric": False, "CalibMovingAverage": average}
    quantize_static(
        saved, tmp_path / "ort.onnx", reader(), per_channel=True, activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8, extra_options=options,
    )  # fmt: skip
    minmax = section(params={"calibrate_method": "MinMax"}, extra={"CalibMovingAverage": average})
    quantize_onnx(saved, tmp_path / "ours.onnx", photos(), minmax)
    theirs, ours = arrays(onnx.load(tmp_path / "ort.onnx")), arrays(onnx.load(tmp_path / "ours.onnx"))
    scales = [n for n in ours if n.endswith(("_scale", "_zero_point")) and "joined" not in n and n in theirs]
    assert len(scales) > 20
    for name in scales:
        assert np.allclose(ours[name], theirs[name], rtol=1e-6), name


@pytest.mark.parametrize("method", methods())
def test_outputs_stay_close_to_the_float_model(
    saved: Path, tmp_path: Path, section: Section, photos: Photos, method: str
) -> None:
    record = quantize_onnx(saved, tmp_path / "q.onnx", photos(20), section(params={"calibrate_method": method}))
    signal = noise = 0.0
    for image in photos(8).batches():
        real, approximate = run(saved, image), run(tmp_path / "q.onnx", image)
        signal, noise = signal + np.square(real).sum(), noise + np.square(real - approximate).sum()
    sqnr = 10 * np.log10(signal / noise)
    assert sqnr > 15
    assert record["sqnr_db"]["output"] == pytest.approx(sqnr, abs=0.5)


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("value", [0.0, 114.0])
def test_constant_activations_do_not_break_calibration(
    saved: Path, tmp_path: Path, section: Section, photos: Photos, method: str, value: float
) -> None:
    quantize_onnx(saved, tmp_path / "q.onnx", photos(3, value=value), section(params={"calibrate_method": method}))
    image = next(photos(1, value=value).batches())
    difference = np.abs(run(tmp_path / "q.onnx", image) - run(saved, image)).max()
    # what is left is a handful of values a tensor, and divergence doesn't care how far apart they are
    assert difference < (np.inf if method == "Entropy" else 0.1)


def test_float_and_int8_file_have_the_same_cost(saved: Path, tmp_path: Path, section: Section, photos: Photos) -> None:
    quantize_onnx(saved, tmp_path / "q.onnx", photos(), section())
    board = boards()["stm32"]
    one, two = estimate(saved, board), estimate(tmp_path / "q.onnx", board)
    same = ("macc", "parameters", "weights_bytes", "activations_bytes", "io_bytes")
    assert [getattr(one, key) for key in same] == [getattr(two, key) for key in same]


# --- types at the borders ---------------------------------------------------------------------------------------------


@pytest.fixture
def with_spec(tmp_path: Path, detector: Build) -> Callable[..., Path]:
    """The miniature detector as our own exporter would save it."""

    def build(**preprocess: Any) -> Path:
        model = detector()
        spec = DetectorSpec("m", "t", ("a",), Preprocess(16, 16, **preprocess), "yolox", (8,))
        write_metadata(model, spec, {"made_with": {"test": "1"}})
        path = tmp_path / "ours.onnx"
        onnx.save(model, path)
        return path

    return build


def test_a_uint8_input_takes_the_cameras_bytes(
    with_spec: Callable[..., Path], tmp_path: Path, section: Section, photos: Photos
) -> None:
    """Even if no calibration image has a pure black or white pixel."""
    dull = dataclasses.replace(photos(), image=lambda index: photos().image(index) * 0.5 + 40)
    options = {"quantization_input_type": "uint8"}
    record = quantize_onnx(with_spec(), tmp_path / "q.onnx", dull, section(**options))
    quantize_onnx(with_spec(), tmp_path / "float_io.onnx", dull, section())
    assert record["borders"]["image"]["type"] == "uint8"
    assert (record["borders"]["image"]["scale"], record["borders"]["image"]["zero_point"]) == (1.0, 0)
    image = next(photos(1).batches())
    assert np.array_equal(run(tmp_path / "q.onnx", image.astype(np.uint8)), run(tmp_path / "float_io.onnx", image))


def test_a_normalised_uint8_input_takes_the_cameras_bytes_too(
    with_spec: Callable[..., Path], tmp_path: Path, section: Section, photos: Photos
) -> None:
    path = with_spec(mean=(127.0,) * 3, std=(128.0,) * 3)
    scaled = dataclasses.replace(photos(), image=lambda index: (photos().image(index) - 127) / 128)
    record = quantize_onnx(path, tmp_path / "q.onnx", scaled, section(quantization_input_type="uint8"))
    entry = record["borders"]["image"]
    assert entry["scale"] == pytest.approx(1 / 128)
    assert entry["zero_point"] == 127


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_integer_borders_are_the_float_borders_in_other_units(
    saved: Path, tmp_path: Path, section: Section, photos: Photos, kind: str
) -> None:
    integer = section(quantization_input_type=kind, quantization_output_type=kind)
    record = quantize_onnx(saved, tmp_path / "int.onnx", photos(), integer)
    quantize_onnx(saved, tmp_path / "out.onnx", photos(), section(quantization_output_type=kind))
    x, y = record["borders"]["image"], record["borders"]["output"]
    image = next(photos(1).batches())
    limits = np.iinfo(kind)
    stepped = np.clip(np.rint(image / x["scale"]) + x["zero_point"], limits.min, limits.max).astype(kind)
    produced = run(tmp_path / "int.onnx", stepped)
    assert produced.dtype == kind
    assert np.array_equal(produced, run(tmp_path / "out.onnx", image))
    real = (produced.astype(np.float64) - y["zero_point"]) * y["scale"]
    assert np.abs(real - run(saved, image)).max() < 0.5
    assert check_form(onnx.load(tmp_path / "int.onnx")) == []
    inputs = [v.name for v in onnx.load(tmp_path / "int.onnx").graph.input]
    assert inputs == ["image"]


def test_an_integer_output_of_an_operator_that_stays_float_is_refused(
    saved: Path, tmp_path: Path, section: Section, photos: Photos
) -> None:
    options = section(quantization_output_type="int8", params={"nodes_to_exclude": ["to_rows", "flatten", "join"]})
    with pytest.raises(QuantizationError, match="output `output`"):
        quantize_onnx(saved, tmp_path / "q.onnx", photos(), options)
    assert not (tmp_path / "q.onnx").exists()


# --- form, options ----------------------------------------------------------------------------------------------------


def test_the_default_file_is_in_the_form(quantized: Callable[..., ModelProto]) -> None:
    model = quantized(quantization_output_type="int8")
    assert check_form(model) == []
    assert [entry.domain for entry in model.opset_import] == [""]


def test_the_opset_is_raised_to_the_target(tmp_path: Path, detector: Build, section: Section, photos: Photos) -> None:
    onnx.save(detector(opset=11), tmp_path / "old.onnx")
    quantize_onnx(tmp_path / "old.onnx", tmp_path / "q.onnx", photos(), section(target_opset=18))
    assert [entry.version for entry in onnx.load(tmp_path / "q.onnx").opset_import] == [18]


def test_a_target_opset_below_the_models_is_refused(
    tmp_path: Path, detector: Build, section: Section, photos: Photos
) -> None:
    onnx.save(detector(opset=19), tmp_path / "new.onnx")
    with pytest.raises(QuantizationError, match=r"target_opset is 17.*opset 19"):
        quantize_onnx(tmp_path / "new.onnx", tmp_path / "q.onnx", photos(), section())


def test_a_dynamic_batch_becomes_one(tmp_path: Path, detector: Build, section: Section, photos: Photos) -> None:
    onnx.save(detector(batch="batch"), tmp_path / "dynamic.onnx")
    record = quantize_onnx(tmp_path / "dynamic.onnx", tmp_path / "q.onnx", photos(), section())
    assert record["borders"]["image"]["shape"] == [1, 3, 16, 16]
    assert record["borders"]["output"]["shape"] == [1, 64, 6]


def test_a_dynamic_size_is_refused(tmp_path: Path, detector: Build, section: Section, photos: Photos) -> None:
    onnx.save(detector(size="side"), tmp_path / "dynamic.onnx")
    with pytest.raises(QuantizationError, match=r"image\[2\] = side"):
        quantize_onnx(tmp_path / "dynamic.onnx", tmp_path / "q.onnx", photos(), section())


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([("Magic", ["x"], {"domain": "acme.ops"})], "acme.ops:Magic"),
        ([("Nonsense", ["x"], {})], "Nonsense"),
        ([("Conv", ["x", "w"], {"kernel_shape": [1, 1]})], "f.onnx can't be run"),
    ],
)
def test_operators_and_shapes_that_cannot_be_run_are_named(
    tmp_path: Path, section: Section, photos: Photos, nodes: list[Any], message: str
) -> None:
    made = [helper.make_node(kind, inputs, ["y"], **extra) for kind, inputs, extra in nodes]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, 16, 16]) for n in "xy"]
    weight = numpy_helper.from_array(np.ones((3, 4, 1, 1), np.float32), "w")  # for 4 channels; the image has 3
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("acme.ops", 1)]
    model = helper.make_model(helper.make_graph(made, "g", value[:1], value[1:], [weight]), opset_imports=imports)
    model.ir_version = 8
    onnx.save(model, tmp_path / "f.onnx")
    with pytest.raises(QuantizationError, match=message):
        quantize_onnx(tmp_path / "f.onnx", tmp_path / "q.onnx", photos(), section())
    assert not (tmp_path / "q.onnx").exists()


def test_a_batch_of_two_is_refused(tmp_path: Path, detector: Build, section: Section, photos: Photos) -> None:
    onnx.save(detector(batch=2), tmp_path / "two.onnx")
    with pytest.raises(QuantizationError, match="batch size 2"):
        quantize_onnx(tmp_path / "two.onnx", tmp_path / "q.onnx", photos(), section())


def test_a_quantized_model_is_refused(saved: Path, tmp_path: Path, section: Section, photos: Photos) -> None:
    quantize_onnx(saved, tmp_path / "q.onnx", photos(), section())
    with pytest.raises(QuantizationError, match="already quantized"):
        quantize_onnx(tmp_path / "q.onnx", tmp_path / "q2.onnx", photos(), section())


def test_no_calibration_images_is_an_error(saved: Path, tmp_path: Path, section: Section, photos: Photos) -> None:
    with pytest.raises(QuantizationError, match="no calibration images"):
        quantize_onnx(saved, tmp_path / "q.onnx", photos(0), section())


@pytest.mark.parametrize("wrong", [{"size": 20}, {"channels": 1}])
def test_an_image_of_another_shape_is_refused(
    saved: Path, tmp_path: Path, section: Section, photos: Photos, wrong: dict[str, int]
) -> None:
    with pytest.raises(QuantizationError, match=r"calibration image 0 .*\(1, 3, 16, 16\)"):
        quantize_onnx(saved, tmp_path / "q.onnx", photos(**wrong), section())


def test_an_image_with_nan_is_refused(saved: Path, tmp_path: Path, section: Section, photos: Photos) -> None:
    with pytest.raises(QuantizationError, match="not finite"):
        quantize_onnx(saved, tmp_path / "q.onnx", photos(value=float("nan")), section())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": {"nodes_to_exclude": ["residul"]}}, "no `residul`(?s:.*)`residual`"),
        ({"params": {"nodes_to_quantize": ["stemm"]}}, "no `stemm`(?s:.*)`stem`"),
        ({"params": {"op_types_to_quantize": ["Konv"]}}, "`Konv`(?s:.*)Conv"),
        ({"extra": {"weights_tensor_override": [["w9", {"quant_type": "Int8"}]]}}, "no `w9`(?s:.*)`w[0-4]`"),
        ({"extra": {"activations_tensor_override": [["logit", {"quant_type": "Int8"}]]}}, "no `logit`(?s:.*)`logits`"),
        ({"extra": {"weights_tensor_override": [["w0", {"bits": 4}]]}}, "bits"),
        ({"extra": {"weights_tensor_override": [["w0", {"scale": 0.1}]]}}, "zero_point"),
        ({"extra": {"weights_tensor_override": [["w0", {}]]}}, "changes nothing"),
        ({"extra": {"weights_tensor_override": ["w0"]}}, "isn't"),
        ({"extra": {"weights_tensor_override": [["w0", [{"quant_type": "Int8"}]]]}}, "isn't"),
        ({"extra": {"weights_tensor_override": [["w0", {"scale": "wide", "zero_point": 0}]]}}, "no number"),
        ({"extra": {"weights_tensor_override": [["w0", {"scale": 0.0, "zero_point": 0}]]}}, "above 0"),
        ({"extra": {"weights_tensor_override": [["w0", {"quant_type": "Int4"}]]}}, "Int4 needs opset 21"),
        ({"params": {"activType": "Int16"}}, "Int16 needs opset 21"),
        ({"params": {"activType": "Int4"}, "target_opset": 21}, "4 bits are for weights"),
        ({"params": {"weightType": "UInt8"}}, "can't be combined"),
        ({"params": {"weightType": "Int7"}}, "Int7"),
        ({"params": {"calibrate_method": "Median"}}, "Median"),
        ({"extra": {"WeightSymmetric": False}}, "no meaning with granularity per_channel"),
        ({"params": {"calibrate_method": "Entropy"}, "extra": {"CalibMovingAverage": True}}, "no meaning"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(
    saved: Path, tmp_path: Path, section: Section, photos: Photos, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(QuantizationError, match=message):
        quantize_onnx(saved, tmp_path / "q.onnx", photos(), section(**options))
    assert not (tmp_path / "q.onnx").exists()


def test_an_excluded_node_stays_in_float(quantized: Callable[..., ModelProto]) -> None:
    stored = arrays(quantized(params={"nodes_to_exclude": ["pointwise"]}))
    assert stored["w2"].dtype == np.float32
    assert stored["w1_quantized"].dtype == np.int8


def test_only_the_named_operators_are_quantized(quantized: Callable[..., ModelProto]) -> None:
    model = quantized(params={"op_types_to_quantize": ["Conv"]})
    produced = {name: node for node in model.graph.node for name in node.output}
    (concat,) = (node for node in model.graph.node if node.op_type == "Concat")
    assert [produced[name].op_type for name in concat.input] == ["DequantizeLinear", "Sigmoid"]
    (add,) = (node for node in model.graph.node if node.op_type == "Add")
    readers = [node.op_type for node in model.graph.node if add.output[0] in node.input]
    assert readers == ["QuantizeLinear"]  # because the heads read it


def test_only_the_named_nodes_are_quantized(quantized: Callable[..., ModelProto]) -> None:
    stored = arrays(quantized(params={"nodes_to_quantize": ["stem"]}))
    assert "w0_quantized" in stored
    assert "w1_quantized" not in stored


def test_symmetric_activations_have_zero_points_at_zero(quantized: Callable[..., ModelProto]) -> None:
    stored = arrays(quantized(extra={"ActivationSymmetric": True}))
    zero_points = [v for n, v in stored.items() if n.endswith("_zero_point")]
    assert len(zero_points) > 10
    assert not any(np.any(v) for v in zero_points)


def test_asymmetric_weights_use_all_steps(quantized: Callable[..., ModelProto]) -> None:
    stored = arrays(quantized(granularity="per_tensor", extra={"WeightSymmetric": False}))
    assert (stored["w2_quantized"].min(), stored["w2_quantized"].max()) == (-128, 127)


def test_activations_asked_for_without_a_sign_are_the_same_numbers_with_one(
    quantized: Callable[..., ModelProto],
) -> None:
    signed, unsigned = (arrays(quantized(params={"activType": kind})) for kind in ("Int8", "UInt8"))
    named = {name.removesuffix("_int8"): value for name, value in unsigned.items()}
    assert {"c1_zero_point", "c1_scale"} <= signed.keys() == named.keys()
    assert all(
        np.array_equal(named[name], value) and named[name].dtype == value.dtype for name, value in signed.items()
    )


def test_a_float_bias_on_request(quantized: Callable[..., ModelProto]) -> None:
    model = quantized(extra={"QuantizeBias": False})
    assert arrays(model)["b0"].dtype == np.float32
    assert "bias" in {finding.rule for finding in check_form(model)}


def test_sixteen_bit_activations_and_four_bit_weights(
    saved: Path, tmp_path: Path, section: Section, photos: Photos
) -> None:
    extra = {
        "activations_tensor_override": [["c1", {"quant_type": "Int16"}]],
        "weights_tensor_override": [["w2", {"quant_type": "Int4", "axis": 0}]],
    }
    record = quantize_onnx(saved, tmp_path / "q.onnx", photos(), section(target_opset=21, extra=extra))
    model = onnx.load(tmp_path / "q.onnx")
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types["c1_zero_point"] == TensorProto.INT16
    assert types["w2_quantized"] == TensorProto.INT4
    assert {entry.domain for entry in model.opset_import} == {""}
    assert record["overrides"] == ["w2", "c1"]
    plain = estimate(saved, boards()["stm32"]).weights_bytes
    assert plain is not None
    assert estimate(tmp_path / "q.onnx", boards()["stm32"]).weights_bytes == plain - 64 // 2


def test_a_given_scale_and_zero_point_are_used(quantized: Callable[..., ModelProto]) -> None:
    override = [["c1", {"scale": 0.25, "zero_point": 7}]]
    stored = arrays(quantized(extra={"activations_tensor_override": override}))
    assert (float(stored["c1_scale"]), int(stored["c1_zero_point"])) == (0.25, 7)


def test_a_given_scale_for_each_channel_is_used(quantized: Callable[..., ModelProto]) -> None:
    scales = [0.01 * (i + 1) for i in range(4)]
    override = [["w3", {"scale": scales, "zero_point": [0] * 4, "axis": 0}]]
    stored = arrays(quantized(extra={"weights_tensor_override": override}))
    assert np.allclose(stored["w3_scale"], scales)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["MinMax", "Entropy"])
def test_the_same_input_gives_the_same_bytes(
    saved: Path, tmp_path: Path, section: Section, photos: Photos, method: str
) -> None:
    for name in ("a.onnx", "b.onnx"):
        quantize_onnx(saved, tmp_path / name, photos(), section(params={"calibrate_method": method}))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_a_failing_check_leaves_the_old_file_and_no_rest(
    saved: Path, tmp_path: Path, section: Section, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / "q.onnx"
    out.parent.mkdir()
    out.write_bytes(b"old")

    def refuse(path: Path | bytes, *args: Any, **kwargs: Any) -> Any:
        raise ArtifactError("planted")

    real = int8.new_session
    monkeypatch.setattr(int8, "new_session", lambda m, *a, **k: refuse(m) if isinstance(m, Path) else real(m, *a, **k))
    with pytest.raises(ArtifactError, match="planted"):
        quantize_onnx(saved, out, photos(), section())
    assert out.read_bytes() == b"old"
    assert list(out.parent.iterdir()) == [out]


def test_the_file_says_what_it_was_made_from(
    with_spec: Callable[..., Path], tmp_path: Path, section: Section, photos: Photos
) -> None:
    record = quantize_onnx(with_spec(), tmp_path / "q.onnx", photos(7), section())
    kept = {entry.key: entry.value for entry in onnx.load(tmp_path / "q.onnx").metadata_props}
    assert json.loads(kept["stdet.spec"])["class_names"] == ["a"]
    assert json.loads(kept["stdet.provenance"])["made_with"] == {"test": "1"}
    assert json.loads(kept[METADATA_KEY]) == json.loads(json.dumps(record))
    assert record["calibration"]["images"] == 7
    assert record["calibration"]["sha256"] == photos(7).sha256
    assert not [key for key in kept if key.startswith("onnx.")]


def test_noise_for_calibration_is_marked_unfit(saved: Path, tmp_path: Path, section: Section, photos: Photos) -> None:
    noise = dataclasses.replace(photos(), source="random")
    assert quantize_onnx(saved, tmp_path / "q.onnx", noise, section())["calibration"]["fit_for_accuracy"] is False


def test_progress_counts_the_images(saved: Path, tmp_path: Path, section: Section, photos: Photos) -> None:
    seen: list[tuple[int, int | None]] = []
    options = section(params={"calibrate_method": "MinMax"})
    quantize_onnx(saved, tmp_path / "q.onnx", photos(4), options, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


# --- SmoothQuant ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folding", [True, False])
def test_smoothquant_keeps_the_function(tmp_path: Path, detector: Build, photos: Photos, folding: bool) -> None:
    onnx.save(detector(residual=False), tmp_path / "f.onnx")
    floating = prepare(tmp_path / "f.onnx", 17)
    smoothed = smooth(floating, photos(), 0.5, folding)
    muls = [node.op_type for node in smoothed.graph.node].count("Mul")
    assert muls == (3 if folding else 5)  # one is the SiLU's; its product and the image can't be folded
    for image in photos(3).batches():
        assert np.allclose(run(smoothed, image), run(floating, image), rtol=1e-4, atol=1e-5)


def test_smoothquant_helps_where_one_channel_dwarfs_the_others(
    graph: Build, tmp_path: Path, section: Section, photos: Photos
) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 0.05, (8, 3, 1, 1)), rng.normal(0, 1, (4, 8, 1, 1))
    first[0] *= 200
    second[:, 0] /= 200
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], "one", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2"], ["y"], "two", kernel_shape=[1, 1]),
    ]
    constants = {"w1": first, "w2": second, "b1": rng.normal(0, 1, 8)}
    model = graph(
        nodes, {n: v.astype(np.float32) for n, v in constants.items()}, {"x": [1, 3, 16, 16]}, {"y": [1, 4, 16, 16]}
    )
    onnx.save(model, tmp_path / "f.onnx")
    params = {"calibrate_method": "MinMax"}
    plain = quantize_onnx(tmp_path / "f.onnx", tmp_path / "q.onnx", photos(), section(params=params))
    extra = {"SmoothQuant": True, "SmoothQuantAlpha": 0.8}
    better = quantize_onnx(tmp_path / "f.onnx", tmp_path / "s.onnx", photos(), section(params=params, extra=extra))
    assert better["sqnr_db"]["y"] > plain["sqnr_db"]["y"] + 6


def test_how_to_smooth_decides_about_what_is_stored(
    tmp_path: Path, detector: Build, section: Section, photos: Photos
) -> None:
    onnx.save(detector(residual=False), tmp_path / "f.onnx")

    def made(**extra: Any) -> ModelProto:
        options = section(params={"calibrate_method": "MinMax"}, extra={"SmoothQuant": True, **extra})
        quantize_onnx(tmp_path / "f.onnx", tmp_path / "q.onnx", photos(), options)
        return onnx.load(tmp_path / "q.onnx")

    usual, stronger, beside = made(), made(SmoothQuantAlpha=0.9), made(SmoothQuantFolding=False)
    assert not np.allclose(arrays(usual)["w1_scale"], arrays(stronger)["w1_scale"])
    assert [[node.op_type for node in model.graph.node].count("Mul") for model in (usual, beside)] == [3, 5]


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "extra"),
    [*((method, {}) for method in methods()), ("MinMax", {"SequentialMSE": True, "BiasCorrection": True})],
)
def test_memory_does_not_grow_with_the_number_of_images(
    tmp_path: Path, detector: Build, method: str, extra: dict[str, bool]
) -> None:
    """128 px: 5 MiB of activations an image; held for 80 images they would be 400 MiB."""
    onnx.save(detector(size=128), tmp_path / "f.onnx")
    script = textwrap.dedent(f"""
        import resource, sys
        import numpy as np
        from pathlib import Path
        from stdet_deploy_stm32.quantize.section import Quantization
        from stdet.interfaces.deploy import CalibrationData
        from stdet_deploy_stm32.quantize.int8 import quantize_onnx

        def data(count):
            image = np.random.default_rng(0).integers(0, 256, (1, 3, 128, 128)).astype(np.float32)
            return CalibrationData(lambda i: image * (i % 7 + 1), count, "", "noise")

        config = Quantization.model_validate(
            {{"onnx_quant_parameters": {{"calibrate_method": "{method}"}}, "onnx_extra_options": {extra}}}
        )
        peaks = []
        for count in (4, 80):
            quantize_onnx(Path("f.onnx"), Path("q.onnx"), data(count), config)
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        print(peaks[1] - peaks[0])
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 40


# --- a real detector --------------------------------------------------------------------------------------------------


def test_a_published_detector_quantizes_into_the_form(shared: Path, tmp_path: Path, section: Section) -> None:
    source = shared / "models" / "yolox_nano_coco_416.onnx"
    noise = np.random.default_rng(0).integers(0, 256, (1, 3, 416, 416)).astype(np.float32)
    data = CalibrationData(lambda index: noise, 1, "", "random")
    options = section(quantization_input_type="uint8", quantization_output_type="int8")
    record = quantize_onnx(source, tmp_path / "q.onnx", data, options)
    assert record["form"] == []
    board = boards()["stm32n6570-dk"]
    assert estimate(source, board).macc == estimate(tmp_path / "q.onnx", board).macc
