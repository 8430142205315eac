"""The network's C code on emulated cores, beside this computer's build, the integer reference and onnxruntime."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stdet.errors import ModelError, StdetError
from stdet_deploy_stm32.bench import emulator
from stdet_deploy_stm32.bench.emulation import bench_emulator, machine_of
from stdet_deploy_stm32.bench.emulator import INSTALL, MACHINES, CNetwork, network_adapter
from stdet_deploy_stm32.boards import boards
from stdet_deploy_stm32.firmware.facts import Tensor
from stdet_deploy_stm32.onnx_graph.integer import IntegerReference

TOOLS = ("gcc", emulator.ARM_GCC, emulator.QEMU)


@pytest.fixture
def tools() -> None:
    missing = [INSTALL[name] for name in TOOLS if shutil.which(name) is None]
    if importlib.util.find_spec("emx_onnx_cgen") is None:
        missing.append(INSTALL["emx-onnx-cgen"])
    if missing:
        pytest.skip(f"the emulator isn't here: {'; '.join(missing)}")


@pytest.fixture
def int8(saved: Path, tmp_path: Path, photos: Any, section: Any) -> Path:
    """The miniature detector, quantized."""
    from stdet_deploy_stm32.quantize.modes import Job, run_mode

    run_mode(Job(saved, tmp_path / "int8.onnx", photos(), section(), None, None))
    return tmp_path / "int8.onnx"


def test_every_core_answers_bit_for_bit_as_this_computer_and_counts_the_same_twice(
    tools: None, int8: Path, tmp_path: Path, photos: Any
) -> None:
    (tmp_path / "c").mkdir()
    network = CNetwork(int8, tmp_path / "c")
    images = [photos().image(index) for index in range(3)]
    here = network.run(network.build(None), images)
    assert here.network == ()
    counts = {}
    for core, machine in MACHINES.items():
        program = network.build(machine)
        ran, again = network.run(program, images), network.run(program, images)
        assert ran.network == again.network
        assert program.code_bytes > 1000
        counts[core] = ran.network[1]
        for mine, yours in zip(ran.outputs, here.outputs, strict=True):
            np.testing.assert_array_equal(mine[0], yours[0])
    assert 100_000 < counts["Cortex-M55"] < counts["Cortex-M7"] < counts["Cortex-M4"] < 10_000_000
    reference = IntegerReference(onnx.load(int8))
    for image, answer in zip(images, here.outputs, strict=True):
        wanted = reference.run({"image": image}).outputs["output"]
        off = np.abs(answer[0] - wanted)
        assert (off > 0).mean() < 0.01  # ties of float sums, a step each


def test_the_backend_says_whose_answers_the_core_gives(tools: None, int8: Path) -> None:
    steps: list[int] = []
    report = bench_emulator(int8, boards()["stm32n6570-dk"], lambda done, total: steps.append(done))
    json.dumps(asdict(report))
    assert report.latency_ms is None
    assert report.latency_kind == "none"
    assert report.instructions == max(report.details["instructions_per_image"])
    assert report.details["differs_from_host_build"]["differing"] == 0
    assert (
        report.details["differs_from_onnxruntime"]["differing"]
        < 0.01 * report.details["differs_from_reference"]["values"]
    )
    assert steps == [1, 2, 3, 4, 5]


def test_a_board_whose_core_has_no_machine_is_refused_with_those_that_have() -> None:
    assert machine_of(boards()["stm32n6570-dk"]).core == "Cortex-M55"
    assert machine_of(boards()["stm32"]).core == "Cortex-M55"
    without = [board for board in boards().values() if board.cpu not in {*MACHINES, "Cortex-M"}]
    assert without
    with pytest.raises(StdetError, match="the emulator has no Cortex-M33") as caught:
        machine_of(without[0])
    assert "Cortex-M7" in str(caught.value.hint)


def test_a_missing_tool_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, saved: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(StdetError, match="needs qemu-system-arm") as caught:
        emulator.tool(emulator.QEMU)
    assert caught.value.hint == "apt-get install qemu-system-arm"

    def absent(name: str) -> str:
        raise emulator.PackageNotFoundError(name)

    monkeypatch.setattr(emulator, "version", absent)
    with pytest.raises(StdetError, match="needs emx-onnx-cgen") as caught:
        CNetwork(saved, tmp_path)
    assert "stdet-deploy-stm32[emulator]" in str(caught.value.hint)


def test_a_network_with_two_inputs_is_refused(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "g", values[:2], values[2:])
    onnx.save(helper.make_model(graph), tmp_path / "two.onnx")
    with pytest.raises(ModelError, match="2 inputs and 1 outputs"):
        CNetwork(tmp_path / "two.onnx", tmp_path)


def test_the_adapter_has_the_prototype_of_the_translated_function() -> None:
    image = Tensor("image", (1, 3, 4, 5), np.dtype(np.uint8), 1.0, 0)
    answer = Tensor("answer", (1, 6, 7), np.dtype(np.float32))
    text = network_adapter(image, [answer], weights=True)
    assert "void emx(const uint8_t a0[1][3][4][5], float a1[1][6][7]);" in text
    assert "emx((const uint8_t (*)[3][4][5])input, (float (*)[6][7])outputs[0]);" in text
    assert 'emx_load("emx.bin")' in text
    assert "emx_load(" in text


def test_a_resize_with_an_empty_region_is_translated(tools: None, graph: Any, tmp_path: Path) -> None:
    constants = {"region": np.zeros(0, np.float32), "twice": np.array([1, 1, 2, 2], np.float32)}
    node = helper.make_node(
        "Resize", ["x", "region", "twice"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )  # fmt: skip
    onnx.save(graph([node], constants, {"x": [1, 2, 3, 4]}, {"y": [1, 2, 6, 8]}), tmp_path / "resize.onnx")
    (tmp_path / "c").mkdir()
    network = CNetwork(tmp_path / "resize.onnx", tmp_path / "c")
    image = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    found = network.run(network.build(None), [image]).outputs[0][0]
    np.testing.assert_array_equal(found, image.repeat(2, 2).repeat(2, 3))


def test_a_network_that_the_core_has_no_memory_for_ends_with_an_error(tools: None, graph: Any, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),  # 23 MB of floats in between
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    ends = {"x": [1, 3, 300, 300]}, {"y": [1, 64, 1, 1]}
    onnx.save(graph(nodes, {"w": np.ones((64, 3, 1, 1), np.float32)}, *ends), tmp_path / "large.onnx")
    (tmp_path / "c").mkdir()
    network = CNetwork(tmp_path / "large.onnx", tmp_path / "c")
    image = np.zeros(network.input.shape, np.float32)
    with pytest.raises(StdetError, match="memory ran out"):
        network.run(network.build(MACHINES["Cortex-M7"]), [image])
