"""What is admitted as an ONNX file, and what is said of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from stdet.artifacts import ModelFile
from stdet.errors import ArtifactError
from stdet.onnx_file import MAX_OPERATORS, admit

Save = Callable[..., Path]
node = helper.make_node


def value(name: str, shape: list[int | str | None] | None, element: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """A file with a graph from x to y."""

    def write(
        nodes: list[onnx.NodeProto],
        x: onnx.ValueInfoProto | None = None,
        y: onnx.ValueInfoProto | None = None,
        constants: dict[str, np.ndarray] | None = None,
        change: Callable[[ModelProto], None] = lambda model: None,
    ) -> Path:
        stored = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
        inputs, outputs = [x or value("x", [1, 3, 32, 32])], [y or value("y", [1, 84, 21])]
        model = helper.make_model(
            helper.make_graph(nodes, "g", inputs, outputs, stored),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        change(model)
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return write


def test_a_file_is_described(save: Save) -> None:
    weights = {"w": np.zeros((3, 3), np.float32)}

    def list_constants_as_old_files_do(model: ModelProto) -> None:
        model.graph.input.insert(0, value("w", [3, 3]))

    path = save(
        [node("Foo", ["x", "w"], ["y"])], value("x", ["n", 3, None, 416]), None, weights, list_constants_as_old_files_do
    )
    facts = admit(path)
    assert [each.name for each in facts.inputs] == ["x"]
    assert facts.describe() == (
        "opset 17; takes `x` float32 [?, 3, ?, 416]; gives `y` float32 [1, 84, 21]"
        " (as a yolox head of 16 classes: 4 box values, objectness and classes by row)"
    )
    assert facts.size is None
    assert ModelFile.at(path).kind == "float"


@pytest.mark.parametrize(
    ("shape", "meaning"),
    [
        ([1, 84, 8400], "the yolov8 head of 80 classes"),
        ([1, 84, None], "the yolov8 head of 80 classes"),
        ([1, 8400, 85], "a yolox head of 80 classes"),
        ([1, 10], ""),
        (None, ""),
    ],
)
def test_outputs_are_told_by_their_shape(save: Save, shape: list[int | str | None] | None, meaning: str) -> None:
    told = admit(save([node("Foo", ["x"], ["y"])], None, value("y", shape))).describe()
    assert meaning in told
    assert ("(as" in told) == bool(meaning)


def test_a_size_is_known_where_the_file_says_it(save: Save) -> None:
    assert admit(save([node("Foo", ["x"], ["y"])])).size == (32, 32)
    assert admit(save([node("Foo", ["x"], ["y"])], value("x", None))).size is None


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (value("x", [1, 32, 32, 3]), "takes no image"),
        (value("x", [1, 3]), "takes no image"),
        (value("x", [1, 3, 8, 8], TensorProto.STRING), "takes"),
        (value("x", [1, 3, 8, 8], TensorProto.INT64), "takes int64"),
    ],
)
def test_an_input_that_is_no_image_is_named(save: Save, x: onnx.ValueInfoProto, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        _ = admit(save([node("Foo", ["x"], ["y"])], x)).image
    assert "`x`" in caught.value.message


def test_several_inputs_are_named(save: Save) -> None:
    path = save([node("Foo", ["x", "z"], ["y"])], change=lambda model: model.graph.input.append(value("z", [1])))
    with pytest.raises(ArtifactError, match=r"several inputs: .*`x` .*`z`"):
        _ = admit(path).image


def circle(model: ModelProto) -> None:
    model.graph.node.extend([node("Identity", ["b"], ["a"], "there"), node("Identity", ["a"], ["b"], "back")])


def giant(model: ModelProto) -> None:
    model.graph.output[0].CopyFrom(value("y", [1 << 40]))


def loop() -> list[onnx.NodeProto]:
    """2 to the 62 rounds."""
    inputs = [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("v", [1, 3, 32, 32])]
    body: GraphProto = helper.make_graph(
        [node("Identity", ["c"], ["c2"]), node("Relu", ["v"], ["v2"])], "body", inputs,
        [value("c2", [], TensorProto.BOOL), value("v2", [1, 3, 32, 32])],
    )  # fmt: skip
    return [node("Loop", ["count", "", "x"], ["y"], "endless", body=body)]


def nested_loop() -> list[onnx.NodeProto]:
    then = helper.make_graph(loop(), "then", [], [value("y", None)])
    other = helper.make_graph([node("Relu", ["x"], ["y"])], "else", [], [value("y", None)])
    return [node("If", ["true"], ["y"], then_branch=then, else_branch=other)]


def functions(count: int, calls: int, closed: bool = False) -> Callable[[ModelProto], None]:
    """f0 calls f1 `calls` times, which calls f2, …; closed, the last calls the first."""

    def add(model: ModelProto) -> None:
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        for i in range(count):
            last = i == count - 1
            name, domain = (("f0", "own") if closed else ("Relu", "")) if last else (f"f{i + 1}", "own")
            body = [node(name, ["a" if k == 0 else f"t{k}"], ["b" if k == calls - 1 else f"t{k + 1}"], domain=domain)
                    for k in range(calls)]  # fmt: skip
            model.functions.append(helper.make_function("own", f"f{i}", ["a"], ["b"], body, imports))
        model.opset_import.append(helper.make_opsetid("own", 1))

    return add


COUNT = {"count": np.array(1 << 62)}
HOSTILE = [
    ([node("Relu", ["x"], ["y"])], {}, circle, "circle at Identity `there`"),
    (loop(), COUNT, lambda model: None, "holds a loop .Loop `endless`."),
    (nested_loop(), COUNT | {"true": np.array(True)}, lambda model: None, "holds a loop .Loop `endless`."),
    ([node("Relu", [f"t{i}" if i else "x"], ["y" if i == MAX_OPERATORS else f"t{i + 1}"]) for i in range(MAX_OPERATORS + 1)],
     {}, lambda model: None, "holds 5001 operators"),
    ([node("f0", ["x"], ["y"], domain="own")], {}, functions(40, 4), "operators"),
    ([node("f0", ["x"], ["y"], domain="own")], {}, functions(3, 1, closed=True), "calls itself"),
    ([node("Expand", ["x", "w"], ["y"])], {}, giant, "no memory"),
    ([node("Relu", ["x"], ["y"])], {}, lambda model: model.graph.ClearField("output"), "no output"),
    ([], {}, lambda model: None, "holds no graph"),
]  # fmt: skip


@pytest.mark.parametrize(("nodes", "constants", "change", "message"), HOSTILE)
def test_a_graph_that_never_ends_or_fits_is_refused_at_once(
    save: Save,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    change: Callable[[ModelProto], None],
    message: str,
) -> None:
    path = save(nodes, None, None, constants, change)
    started = time.process_time()
    with pytest.raises(ArtifactError, match=message) as caught:
        ModelFile.at(path)
    assert caught.value.hint
    assert time.process_time() - started < 2


def test_what_is_no_onnx_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "zero.onnx").touch()
    (tmp_path / "text.onnx").write_text("<!DOCTYPE html><html><body>404</body></html>")
    os.mkfifo(tmp_path / "pipe.onnx")
    for name, message in (
        ("zero.onnx", "0 bytes"), ("text.onnx", "not a readable ONNX file"), ("pipe.onnx", "no regular file"),
        ("none.onnx", "no model file"), (".", "no regular file"),
    ):  # fmt: skip
        for look in (admit, ModelFile.at):
            with pytest.raises(ArtifactError, match=message):
                look(tmp_path / name)
