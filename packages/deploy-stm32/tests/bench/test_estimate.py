"""Counts against published figures, torch's own run and hand arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from stdet.errors import ArtifactError, ModelError
from stdet.interfaces.deploy import Overflow
from stdet_deploy_stm32.bench.estimate import estimate
from stdet_deploy_stm32.boards import boards

Build = Callable[..., ModelProto]


def export(network: torch.nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    torch.onnx.export(network.eval(), (torch.zeros(shape),), str(path), dynamo=False, opset_version=17)
    return path


def test_macc_weights_and_parameters_are_counted_to_the_digit(tmp_path: Path) -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 8 * 8, 5),
    )
    report = estimate(export(network, (1, 3, 16, 16), tmp_path / "m.onnx"), boards()["stm32"])
    first, depthwise, dense = 8 * 8 * 8 * 27 + 8 * 8 * 8, 8 * 8 * 8 * 9, 512 * 5 + 5
    assert report.macc == first + depthwise + dense
    assert report.parameters == 8 * 27 + 8 + 8 * 9 + 512 * 5 + 5
    assert report.weights_bytes == 8 * 27 + 4 * 8 + 8 * 9 + 512 * 5 + 4 * 5


def test_the_whole_detector_by_hand(saved: Path) -> None:
    """8x8 maps: dense 3*9*8, depthwise 9*8, pointwise 8*8, heads 8*4 and 8*2 products a pixel, one bias an output."""
    report = estimate(saved, boards()["stm32"])
    products = 64 * (3 * 9 * 8 + 9 * 8 + 8 * 8 + 8 * 4 + 8 * 2)
    assert report.macc == products + 64 * (8 + 8 + 8 + 4 + 2)
    weights = 3 * 9 * 8 + 9 * 8 + 64 + 32 + 16
    assert (report.parameters, report.weights_bytes) == (weights + 30, weights + 4 * 30)
    assert report.io_bytes == 3 * 16 * 16 + 64 * 6
    # the output, first as 1 byte an element, then as 4 beside it; before that, at most 3 * 512: the stem's map waits for the
    # residual while the SiLU holds its input and sigmoid
    assert report.activations_bytes == 5 * 64 * 6


@pytest.mark.parametrize(
    ("width", "flash_kib", "ram_kib", "latency_ms"),
    [(0.35, 1654.5, 699.32, 321.76), (1.4, 6015.34, 2143.27, 2035.56)],
)
def test_published_mobilenets_on_a_core(
    tmp_path: Path, width: float, flash_kib: float, ram_kib: float, latency_ms: float
) -> None:
    """MobileNetV2 at 224 px on STM32H747I-DISCO (model zoo, 4.0.0): flash to the digit, RAM within 6 %, latency within
    its stated error, MACC as torch runs it."""
    network = pytest.importorskip("torchvision.models").mobilenet_v2(width_mult=width).eval()
    report = estimate(export(network, (1, 3, 224, 224), tmp_path / "m.onnx"), boards()["stm32h747i-disco"])
    assert report.weights_bytes is not None
    assert round(report.weights_bytes / 1024, 2) == flash_kib
    assert report.activations_bytes is not None
    assert report.activations_bytes / 1024 == pytest.approx(ram_kib, rel=0.06)
    assert report.latency_kind == "model"
    assert report.uncertainty_percent is not None
    assert report.latency_ms == pytest.approx(latency_ms, rel=report.uncertainty_percent / 100)
    assert report.macc == torch_macc(network)


def torch_macc(network: torch.nn.Module) -> int:
    """Multiply-accumulates, with one for each bias, as torch runs a 224 px image."""
    total = 0

    def count(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * (math.prod(module.weight.shape[1:]) + 1)

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    return total


def test_a_published_mobilenet_on_the_npu(tmp_path: Path) -> None:
    """MobileNetV2 1.0 at 224 px on STM32N6570-DK (model zoo, 4.0.0): 3812.11 KiB of flash, 20.45 ms, nothing outside."""
    network = pytest.importorskip("torchvision.models").mobilenet_v2().eval()
    report = estimate(export(network, (1, 3, 224, 224), tmp_path / "m.onnx"), boards()["stm32n6570-dk"])
    assert report.weights_bytes is not None
    assert report.weights_bytes / 1024 == pytest.approx(3812.11, rel=0.02)
    assert report.activations_external_bytes == 0
    assert report.uncertainty_percent == 18
    assert report.latency_ms == pytest.approx(20.45, rel=0.1)
    assert report.operators == {"NPU": 64}
    assert report.fits is True
    assert "4.0.0" in report.provenance
    assert "not a measurement" in report.provenance
    layers = report.details["layers"]
    assert sum(layer["latency_ms"] for layer in layers) == pytest.approx(report.latency_ms)
    assert sum(layer["weights_bytes"] for layer in layers) == report.weights_bytes


@pytest.mark.parametrize(
    ("board", "reason"),
    [("stm32", "no published figures of Cortex-M"), ("b-u585i-iot02a", "no published figures of Cortex-M33")],
)
def test_a_core_without_published_figures_gets_a_reason_and_no_latency(saved: Path, board: str, reason: str) -> None:
    report = estimate(saved, boards()[board])
    assert (report.latency_ms, report.latency_kind) == (None, "none")
    assert reason in report.latency_reason
    assert report.macc


def test_another_board_with_the_measured_core_gets_a_wider_error(saved: Path) -> None:
    own, other = (estimate(saved, boards()[name]) for name in ("stm32h747i-disco", "stm32f769i-disco"))
    assert own.latency_ms is not None
    assert other.latency_ms == pytest.approx(own.latency_ms * 400 / 216)
    assert own.uncertainty_percent is not None
    assert other.uncertainty_percent is not None
    assert other.uncertainty_percent > own.uncertainty_percent


def stem_at(side: int, path: Path) -> Path:
    """A convolution to 16 channels at full resolution, and one that reads them."""
    body = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, 1, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 3, 2, 1))
    return export(body, (1, 3, side, side), path)


def test_activations_outside_cost_time_and_are_told(tmp_path: Path) -> None:
    inside = estimate(stem_at(256, tmp_path / "a.onnx"), boards()["stm32n6570-dk"])
    outside = estimate(stem_at(352, tmp_path / "b.onnx"), boards()["stm32n6570-dk"])
    assert inside.activations_external_bytes == 0
    assert outside.activations_external_bytes == 16 * 352 * 352
    assert outside.latency_ms is not None
    assert inside.latency_ms is not None
    assert outside.latency_ms > 4 * inside.latency_ms
    assert outside.uncertainty_percent == 21
    assert any("need external RAM" in note for note in outside.notes)


def test_far_beyond_the_published_figures_there_is_a_reason_and_no_latency(tmp_path: Path) -> None:
    report = estimate(stem_at(640, tmp_path / "m.onnx"), boards()["stm32n6570-dk"])
    assert report.latency_ms is None
    assert "read from external RAM" in report.latency_reason
    assert report.activations_external_bytes is not None
    assert report.activations_external_bytes >= 16 * 640 * 640


def test_a_model_with_two_inputs_is_refused_by_their_names(tmp_path: Path, graph: Build) -> None:
    ends = {"left": [1, 3, 4, 4], "right": [1, 3, 4, 4]}, {"y": [1, 3, 4, 4]}
    onnx.save(graph([helper.make_node("Add", ["left", "right"], ["y"])], {}, *ends), tmp_path / "two.onnx")
    with pytest.raises(ModelError, match=r"two\.onnx has 2 inputs: left, right"):
        estimate(tmp_path / "two.onnx", boards()["stm32"])


def test_a_float_file_and_its_qdq_form_count_the_same(tmp_path: Path) -> None:
    weight = np.ones((4, 3, 1, 1), np.float32)
    float_graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    scale, zero = (
        numpy_helper.from_array(np.array(0.1, np.float32), "s"),
        numpy_helper.from_array(np.array(0, np.int8), "z"),
    )
    qdq_graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
            helper.make_node("Conv", ["xd", "wd"], ["yf"]),
            helper.make_node("QuantizeLinear", ["yf", "s", "z"], ["yq"]),
            helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["y"]),
        ],
        "g",
        list(float_graph.input),
        list(float_graph.output),
        [numpy_helper.from_array(weight.astype(np.int8), "wq"), scale, zero],
    )
    counts = []
    for name, graph in (("f", float_graph), ("q", qdq_graph)):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        onnx.save(model, tmp_path / f"{name}.onnx")
        report = estimate(tmp_path / f"{name}.onnx", boards()["stm32"])
        counts.append((report.macc, report.parameters, report.weights_bytes, report.activations_bytes))
    assert counts[0] == counts[1] == (192, 12, 12, 5 * 64)


def test_a_dynamic_size_is_refused(tmp_path: Path, detector: Build) -> None:
    onnx.save(detector(size="side"), tmp_path / "dynamic.onnx")
    with pytest.raises(ModelError, match="not static"):
        estimate(tmp_path / "dynamic.onnx", boards()["stm32"])


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"bad\.onnx"):
        estimate(tmp_path / "bad.onnx", boards()["stm32"])


def test_the_note_says_what_does_not_fit_and_by_how_much() -> None:
    small, large = boards()["nucleo-f401re"], boards()["stm32h747i-disco"]
    fits, overflows = small.fit(600 * 1024, 96 * 1024, 4 * 1024)
    assert fits is False
    assert overflows == (
        Overflow("flash", 600 * 1024, 512 * 1024),
        Overflow("internal RAM", 100 * 1024, 96 * 1024),
    )
    notes = small.memory_notes(600 * 1024, 96 * 1024, 4 * 1024)
    assert "DOES NOT FIT: flash needed 600.0 KiB, there are 512 KiB: 88.0 KiB too little" in notes
    assert large.fit(1, 1024 * 1024, 1000 * 1024) == (True, ())
    assert "1000.0 KiB of them need external RAM" in large.memory_notes(1, 1024 * 1024, 1000 * 1024)[1]
    assert boards()["stm32"].fit(1 << 40, 1 << 40, 0) == (None, ())
