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
    assert report.latency_kind == "none"
    assert report.latency_ms is None


def test_the_whole_detector_by_hand(saved: Path) -> None:
    """8x8 maps: dense 3*9*8, depthwise 9*8, pointwise 8*8, heads 8*4 and 8*2 products a pixel, one bias an output."""
    report = estimate(saved, boards()["stm32"])
    products = 64 * (3 * 9 * 8 + 9 * 8 + 8 * 8 + 8 * 4 + 8 * 2)
    assert report.macc == products + 64 * (8 + 8 + 8 + 4 + 2)
    weights = 3 * 9 * 8 + 9 * 8 + 64 + 32 + 16
    assert (report.parameters, report.weights_bytes) == (weights + 30, weights + 4 * 30)
    assert report.io_bytes == 3 * 16 * 16 + 64 * 6
    # the stem's map waits for the residual while the SiLU holds its input, sigmoid and product
    assert report.activations_bytes == 4 * 512


@pytest.mark.parametrize(
    ("width", "weights_kib", "ram_kib"), [(0.35, 1654.5, 832.64), (1.0, 3458.97, 1727.02), (1.4, 6015.34, 2332.2)]
)
def test_published_mobilenets(tmp_path: Path, width: float, weights_kib: float, ram_kib: float) -> None:
    """MobileNetV2 at 224 px on STM32H747I-DISCO, STM32 AI model zoo: weights to the digit, activations within 15 %, and
    MACC as torch runs it."""
    network = pytest.importorskip("torchvision.models").mobilenet_v2(width_mult=width).eval()
    report = estimate(export(network, (1, 3, 224, 224), tmp_path / "m.onnx"), boards()["stm32h747i-disco"])
    assert report.weights_bytes is not None
    assert round(report.weights_bytes / 1024, 2) == weights_kib
    assert report.activations_bytes is not None
    assert report.activations_bytes / 1024 == pytest.approx(ram_kib, rel=0.15)
    total = 0

    def count(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * (math.prod(module.weight.shape[1:]) + 1)

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    assert report.macc == total


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
    assert counts[0] == counts[1] == (192, 12, 12, 48 + 64)


def test_a_dynamic_size_is_refused(tmp_path: Path, detector: Build) -> None:
    onnx.save(detector(size="side"), tmp_path / "dynamic.onnx")
    with pytest.raises(ModelError, match="not static"):
        estimate(tmp_path / "dynamic.onnx", boards()["stm32"])


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"bad\.onnx"):
        estimate(tmp_path / "bad.onnx", boards()["stm32"])


def test_the_note_says_what_does_not_fit() -> None:
    flash, ram = boards()["nucleo-f401re"].fit(600 * 1024, 50 * 1024)
    assert "DO NOT FIT" in flash
    assert "fit into the 96 KiB" in ram
    assert "external" in boards()["stm32h747i-disco"].fit(1, 2000 * 1024)[1]


def test_every_board_names_its_sources() -> None:
    assert all(board.sources for board in boards().values())
    assert sum(pool.kib for pool in boards()["stm32n6570-dk"].pools) == boards()["stm32n6570-dk"].ram_kib
