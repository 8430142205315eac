from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from stdet.errors import ArtifactError, ModelError
from stdet_deploy_stm32.boards import boards
from stdet_deploy_stm32.estimate import estimate, layer_costs
from stdet_deploy_stm32.graph import read_graph

Build = Callable[..., ModelProto]


def test_a_hand_counted_detector(saved: Path) -> None:
    """8x8 maps: dense 3*9*8, depthwise 9*8, pointwise 8*8, heads 8*4 and 8*2 products a pixel, one bias an output."""
    report = estimate(saved, boards()["stm32"])
    products = 64 * (3 * 9 * 8 + 9 * 8 + 8 * 8 + 8 * 4 + 8 * 2)
    biases = 64 * (8 + 8 + 8 + 4 + 2)
    assert report.macc == products + biases
    weights, bias_count = 3 * 9 * 8 + 9 * 8 + 64 + 32 + 16, 30
    assert report.parameters == weights + bias_count
    assert report.weights_bytes == weights + 4 * bias_count
    assert report.io_bytes == 3 * 16 * 16 + 64 * 6
    # the stem's output waits for the residual while the SiLU holds its input, sigmoid and product: 4 maps of 512 bytes
    assert report.activations_bytes == 4 * 512
    assert report.latency_ms is None
    assert report.latency_kind == "none"


def test_a_transposed_convolution_counts_each_input_pixel_with_each_tap(graph: Build) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    model = graph([node], {"w": np.ones((4, 6, 2, 2), np.float32)}, {"x": [1, 4, 5, 5]}, {"y": [1, 6, 10, 10]})
    (row,) = layer_costs(read_graph(model))
    assert row.macc == 25 * 4 * 6 * 4


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_counts_inputs_times_outputs_and_biases(graph: Build, transposed: int) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=transposed)
    weight = np.ones((10, 7) if transposed else (7, 10), np.float32)
    model = graph([node], {"w": weight, "b": np.ones(10, np.float32)}, {"x": [1, 7]}, {"y": [1, 10]})
    (row,) = layer_costs(read_graph(model))
    assert (row.macc, row.parameters, row.weights_bytes) == (80, 80, 110)


def test_a_batch_norm_becomes_the_bias_of_its_convolution(graph: Build) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"]),
    ]
    four = {name: np.ones(4, np.float32) for name in "sbmv"}
    model = graph(nodes, {"w": np.ones((4, 3, 1, 1), np.float32)} | four, {"x": [1, 3, 2, 2]}, {"y": [1, 4, 2, 2]})
    (row,) = layer_costs(read_graph(model))
    assert (row.parameters, row.weights_bytes, row.macc) == (16, 12 + 16, 4 * (12 + 4))


def test_shape_arithmetic_of_exporters_is_folded(graph: Build) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "minus"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    constants = {
        "zero": np.array([0], np.int64),
        "minus": np.array([-1], np.int64),
        "w": np.ones((12, 2), np.float32),
    }
    model = graph(nodes, constants, {"x": ["batch", 3, 2, 2]}, {"y": ["batch", 2]})
    table = layer_costs(read_graph(model))
    assert [(row.op_type, row.macc) for row in table] == [("MatMul", 24)]


def test_a_weight_that_two_layers_share_is_stored_once(graph: Build) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["a", "w"], ["y"], kernel_shape=[1, 1]),
    ]
    model = graph(nodes, {"w": np.ones((3, 3, 1, 1), np.float32)}, {"x": [1, 3, 2, 2]}, {"y": [1, 3, 2, 2]})
    assert [row.weights_bytes for row in layer_costs(read_graph(model))] == [9, 0]


def test_a_dynamic_size_is_refused(tmp_path: Path, detector: Build) -> None:
    onnx.save(detector(size="side"), tmp_path / "dynamic.onnx")
    with pytest.raises(ModelError, match="not static"):
        estimate(tmp_path / "dynamic.onnx", boards()["stm32"])


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"bad\.onnx"):
        estimate(tmp_path / "bad.onnx", boards()["stm32"])


@pytest.mark.parametrize(
    ("width", "size", "weights_kib", "ram_kib"),
    # MobileNetV2 rows of the STM32 AI model zoo for STM32H747I-DISCO: weights flash and activation RAM
    [
        (0.35, 128, 1654.50, 237.32),
        (0.35, 224, 1654.50, 832.64),
        (1.0, 224, 3458.97, 1727.02),
        (1.4, 224, 6015.34, 2332.2),
    ],
)
def test_published_mobilenets(tmp_path: Path, width: float, size: int, weights_kib: float, ram_kib: float) -> None:
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    network = models.mobilenet_v2(width_mult=width).eval()
    path = tmp_path / "mobilenet.onnx"
    torch.onnx.export(network, (torch.zeros(1, 3, size, size),), path, dynamo=False, opset_version=17)
    report = estimate(path, boards()["stm32h747i-disco"])
    assert report.weights_bytes is not None
    assert report.activations_bytes is not None
    assert round(report.weights_bytes / 1024, 2) == weights_kib
    assert report.activations_bytes / 1024 == pytest.approx(ram_kib, rel=0.15)
    hooked = _hooked_macs(network, size)
    assert report.macc == hooked


def _hooked_macs(network: object, size: int) -> int:
    """Products and biases that torch modules report as they run; batch norms count as biases."""
    import torch
    from torch import nn

    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        per_output = math.prod(module.weight.shape[1:])  # type: ignore[union-attr, operator]
        total += output.numel() * (per_output + 1)

    assert isinstance(network, nn.Module)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    return total


def test_the_note_says_what_does_not_fit() -> None:
    board = boards()["nucleo-f401re"]
    flash, ram = board.fit(600 * 1024, 50 * 1024)
    assert "DO NOT FIT" in flash
    assert "fit into the 96 KiB" in ram
    assert "external" in boards()["stm32h747i-disco"].fit(1, 2000 * 1024)[1]


def test_every_board_names_its_sources() -> None:
    assert all(board.sources for board in boards().values())
    assert sum(pool.kib for pool in boards()["stm32n6570-dk"].pools) == boards()["stm32n6570-dk"].ram_kib
