"""Float graphs as other exporters write them: shared constants, nodes without names, long chains."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.bench.host import bench_host
from stdet_deploy_stm32.onnx_graph.surgery import sort_nodes
from stdet_deploy_stm32.quantize.foreign import rewrite_file
from stdet_deploy_stm32.quantize.int8 import make_int8, quantize_onnx
from stdet_deploy_stm32.quantize.modes import Job, run_mode
from stdet_deploy_stm32.quantize.prepare import prepare
from stdet_deploy_stm32.quantize.section import Quantization

Build = Callable[..., ModelProto]
Section = Callable[..., Quantization]
Photos = Callable[..., CalibrationData]
node = helper.make_node
RNG = np.random.default_rng(5)


def weight(*shape: int) -> np.ndarray:
    return RNG.normal(0, 0.3, shape).astype(np.float32)


@pytest.fixture
def shared_constant(graph: Build) -> ModelProto:
    """Two convolutions, a sum and a difference that read one constant."""
    nodes = [
        node("Conv", ["image", "w1"], ["a"], "one"),
        node("Conv", ["image", "w2"], ["b"], "two"),
        node("Add", ["b", "k"], ["p"], "sum"),
        node("Sub", ["k", "b"], ["q"], "difference"),
        node("Concat", ["a", "p", "q"], ["output"], "join", axis=1),
    ]
    constants = {"w1": weight(2, 3, 1, 1), "w2": weight(2, 3, 1, 1), "k": weight(1, 2, 1, 1)}
    return graph(nodes, constants, {"image": [1, 3, 16, 16]}, {"output": [1, 6, 16, 16]})


@pytest.fixture
def two_group_norms(graph: Build) -> ModelProto:
    """GroupNorm as torch exports it for opset 17, twice, with the constants of both shared."""
    nodes, last = [node("Conv", ["image", "w1"], ["c"], "stem")], "c"
    for i in range(2):
        nodes += [
            node("Reshape", [last, "groups"], [f"r{i}"]),
            node("InstanceNormalization", [f"r{i}", "ones", "zeros"], [f"n{i}"], epsilon=1e-5),
            node("Reshape", [f"n{i}", "image_shape"], [f"s{i}"]),
            node("Mul", [f"s{i}", "gain"], [f"m{i}"]),
            node("Add", [f"m{i}", "shift"], [f"t{i}"]),
            node("Relu", [f"t{i}"], [f"u{i}"]),
            node("Conv", [f"u{i}", "w2"], [f"v{i}"]),
        ]
        last = f"v{i}"
    nodes.append(node("Sigmoid", [last], ["output"]))
    constants = {
        "w1": weight(4, 3, 1, 1), "w2": weight(4, 4, 1, 1), "groups": np.array([0, 2, -1]),
        "image_shape": np.array([1, 4, 16, 16]), "ones": np.ones(2, np.float32), "zeros": np.zeros(2, np.float32),
        "gain": weight(4, 1, 1), "shift": weight(4, 1, 1),
    }  # fmt: skip
    return graph(nodes, constants, {"image": [1, 3, 16, 16]}, {"output": [1, 4, 16, 16]})


@pytest.fixture
def shared_qdq(shared_constant: ModelProto, tmp_path: Path, photos: Photos) -> Path:
    """The same as onnxruntime's own pipeline quantizes it: both readers behind one DequantizeLinear."""

    class Reader(CalibrationDataReader):
        images = photos().batches()

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            image = next(self.images, None)
            return None if image is None else {"image": image}

    onnx.save(shared_constant, tmp_path / "plain.onnx")
    quantize_static(
        tmp_path / "plain.onnx", tmp_path / "other_tool.onnx", Reader(), QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "Add", "Sub", "Concat"],
    )  # fmt: skip
    return tmp_path / "other_tool.onnx"


def test_another_tools_shared_constant_is_brought_into_the_form(shared_qdq: Path, tmp_path: Path) -> None:
    rewrite_file(shared_qdq, tmp_path / "ours.onnx")
    constants = {c.name for c in onnx.load(tmp_path / "ours.onnx").graph.initializer}
    stored = [n.input[0] for n in onnx.load(tmp_path / "ours.onnx").graph.node if n.op_type == "DequantizeLinear"]
    stored = [name for name in stored if name in constants]
    assert len(stored) == len(set(stored)) == 4


def test_another_tools_shared_constant_can_be_benched(shared_qdq: Path) -> None:
    assert bench_host(shared_qdq, runs=2).latency_ms is not None


@pytest.mark.parametrize("network", ["shared_constant", "two_group_norms"])
def test_a_constant_that_two_operators_read_is_no_obstacle(
    network: str, request: pytest.FixtureRequest, tmp_path: Path, section: Section, photos: Photos
) -> None:
    source = tmp_path / "float.onnx"
    onnx.save(request.getfixturevalue(network), source)
    record = quantize_onnx(source, tmp_path / "int8.onnx", photos(), section({"calibrate_method": "MinMax"}))
    assert record["sqnr_db"]["output"] > 25


def test_every_operator_reads_constants_of_its_own_with_the_old_values(
    shared_constant: ModelProto, tmp_path: Path
) -> None:
    onnx.save(shared_constant, tmp_path / "float.onnx")
    model = prepare(tmp_path / "float.onnx", 17)
    constants = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    read = [name for n in model.graph.node for name in n.input if name in constants]
    assert len(read) == len(set(read)) == 4
    k = numpy_helper.to_array(next(c for c in shared_constant.graph.initializer if c.name == "k"))
    assert sum(np.array_equal(constants[name], k) for name in read) == 2


def test_nodes_that_folding_makes_have_names(graph: Build, tmp_path: Path, section: Section, photos: Photos) -> None:
    """onnxruntime writes HardSwish out as nodes without names, which equalizing confused, as on torchvision's ssdlite320."""
    nodes, last = [], "image"
    for i in range(2):
        nodes += [
            node("Conv", [last, f"w{i}"], [f"c{i}"]),
            node("HardSwish", [f"c{i}"], [f"m{i}"]),
        ]
        last = f"m{i}"
    nodes.append(node("Conv", [last, "w2"], ["output"]))
    uneven = np.array([100, 1, 1, 1, 1, 0.01], np.float32).reshape(6, 1, 1, 1)
    constants = {"w0": weight(6, 3, 1, 1) / 30 * uneven, "w1": weight(6, 6, 1, 1) * uneven, "w2": weight(2, 6, 1, 1)}
    onnx.save(graph(nodes, constants, {"image": [1, 3, 16, 16]}, {"output": [1, 2, 16, 16]}), tmp_path / "f.onnx")
    names = [n.name for n in prepare(tmp_path / "f.onnx", 17).graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    made = make_int8(tmp_path / "f.onnx", photos(), section())
    assert made.record["equalized"]


def test_sorting_twenty_thousand_nodes_takes_no_time_and_keeps_their_order(graph: Build) -> None:
    count = 20_000
    nodes = [node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
    model = graph(nodes, {}, {"t0": [1]}, {f"t{count}": [1]})
    first = model.graph.node.pop(0)
    model.graph.node.append(first)
    started = time.process_time()
    sort_nodes(model)
    assert time.process_time() - started < 2  # twenty thousand rounds over all of them would take minutes
    assert [n.input[0] for n in model.graph.node] == [f"t{i}" for i in range(count)]


def test_nodes_in_a_circle_are_named(graph: Build) -> None:
    model = graph([node("Relu", ["x"], ["y"])], {}, {"x": [1]}, {"y": [1]})
    model.graph.node.extend([node("Identity", ["b"], ["a"], "there"), node("Identity", ["a"], ["b"], "back")])
    with pytest.raises(ValueError, match="cycle at node there"):
        sort_nodes(model)


def test_a_graph_that_cannot_be_differentiated_gets_a_named_method_with_a_warning(
    graph: Build, tmp_path: Path, section: Section, photos: Photos, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [node("Conv", ["image", "w"], ["c"]), node("Resize", ["c", "", "s"], ["output"], mode="cubic")]
    constants = {"w": weight(2, 3, 1, 1), "s": np.array([1, 1, 2, 2], np.float32)}
    onnx.save(graph(nodes, constants, {"image": [1, 3, 16, 16]}, {"output": [1, 2, 32, 32]}), tmp_path / "f.onnx")
    progress: list[int] = []

    def watch(done: int, total: int | None) -> None:
        assert "Percentile instead of Sensitivity" in caplog.text  # told before the first image
        progress.append(done)

    record = make_int8(tmp_path / "f.onnx", photos(), section(), watch).record
    assert record["options"]["method"] == "Percentile"
    assert progress
    with pytest.raises(QuantizationError, match="Int16Share goes by gradients"):
        make_int8(tmp_path / "f.onnx", photos(), section(extra={"Int16Share": 0.1}, target_opset=21))


def test_quantize_says_what_the_file_is(saved: Path, tmp_path: Path, section: Section, photos: Photos) -> None:
    config = section(extra={"Int16Share": 0.3, "Int4Share": 0.5}, target_opset=21)
    result = run_mode(Job(saved, tmp_path / "int8.onnx", photos(), config, None, None))
    (table,) = (t for t in result.tables if t.title == "the int8 file")
    rows = dict(table.rows)
    assert rows["SQNR of output"] == f"output: {result.record['sqnr_db']['output']:.1f} dB"
    assert rows["operators in float"].startswith("Concat join")  # unlike values: boxes and scores keep their scales
    for kind, found, share in (("Int16 activations", "int16", "activation"), ("Int4 weights", "int4", "weight")):
        assert result.record[found][f"share_of_{share}_bytes"] > 0
        assert rows[kind].startswith(f"{result.record[found][f'share_of_{share}_bytes']:.1%} of their bytes")


def test_quantize_says_that_nothing_stayed_in_float(
    saved: Path, tmp_path: Path, section: Section, photos: Photos
) -> None:
    config = section(quantization_output_type="int8")
    rows = dict(run_mode(Job(saved, tmp_path / "int8.onnx", photos(), config, None, None)).tables[1].rows)
    assert rows["operators in float"] == rows["Int16 activations"] == rows["Int4 weights"] == "none"
