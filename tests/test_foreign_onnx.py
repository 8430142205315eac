"""ONNX files of other tools, in the forms that they come in: evaluated, quantized, benched and predicted with, or refused.

The networks answer the same boxes whatever they see, so an evaluation that reads everything right scores 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image
from reporters import Notes

from stdet import api
from stdet.errors import ArtifactError, ConfigError, ModelError, StdetError
from stdet.export.metadata import read_spec
from stdet.interfaces.reporter import SilentReporter

SIZE, STRIDES, IMAGES = 96, (8, 16, 32), 3
CELLS = np.array([(x, y, s) for s in STRIDES for y in range(SIZE // s) for x in range(SIZE // s)], np.float32)
TRUTH = [((10, 12, 34, 40), 0), ((50, 50, 90, 80), 1)]
CONFIG = """\
operation_mode: evaluation
model: {{ head: yolox, model_path: {folder}/model.onnx }}
dataset:
  dataset_name: coco
  class_names: [disc, star]
  val_images_path: {folder}/images
  val_annotations_path: {folder}/truth.json
  quantization_path: {folder}/calibration
  prediction_path: {folder}/images
  num_workers: 0
quantization: {{ onnx_quant_parameters: {{ calibrate_method: MinMax }} }}
hydra: {{ run: {{ dir: {folder}/run }} }}
"""
node = helper.make_node
Save = Callable[..., Path]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    boxes = [([x1, y1, x2 - x1, y2 - y1], label) for (x1, y1, x2, y2), label in TRUTH]
    for name, shift in (("images", 0), ("calibration", 100)):
        (tmp_path / name).mkdir()
        for i in range(IMAGES):
            pixels = np.random.default_rng(shift + i).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIZE, "height": SIZE} for i in range(IMAGES)],
        "annotations": [
            {
                "id": 1 + 10 * i + k,
                "image_id": i,
                "category_id": label,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for i in range(IMAGES)
            for k, (box, label) in enumerate(boxes)
        ],
        "categories": [{"id": 0, "name": "disc"}, {"id": 1, "name": "star"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(document))
    (tmp_path / "c.yaml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path / "c.yaml"


def answers(head: str) -> np.ndarray:
    """float32 (1, …): the two boxes in the layout of `head`, all other anchors without a score."""
    centres = (CELLS[:, :2] + 0.5) * CELLS[:, 2:]
    boxes = np.concatenate((centres, np.full_like(centres, 8)), 1)
    scores = np.zeros((len(CELLS), 3), np.float32)
    for (x1, y1, x2, y2), label in TRUTH:
        nearest = np.square(centres - [(x1 + x2) / 2, (y1 + y2) / 2]).sum(1).argmin()
        boxes[nearest] = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        scores[nearest, [0, 1 + label]] = 0.9, 1.0
    if head == "yolox":
        strides = CELLS[:, 2:]
        boxes = np.concatenate((boxes[:, :2] / strides - CELLS[:, :2], np.log(boxes[:, 2:] / strides)), 1)
    if head == "yolov8":
        return np.concatenate((boxes, 0.9 * scores[:, 1:]), 1, dtype=np.float32).T[None]
    return np.concatenate((boxes, scores), 1, dtype=np.float32)[None]


def network(head: str = "yolox", batch: Any = 1, side: Any = SIZE, given: np.ndarray | None = None) -> ModelProto:
    answer = answers(head) if given is None else given
    nodes = [
        node("Conv", ["image", "w"], ["c"], "stem", strides=[2, 2]),
        node("Relu", ["c"], ["r"], "relu"),
        node("GlobalAveragePool", ["r"], ["g"], "pool"),
        node("Mul", ["g", "nothing"], ["z"], "silence"),
        node("Reshape", ["z", "flat"], ["f"], "flatten"),
        node("Add", ["f", "answer"], ["output"], "answers"),
    ]
    rows = batch if isinstance(batch, int) and batch > 1 else 0
    constants = {
        "w": np.random.default_rng(0).normal(0, 0.01, (1, 3, 3, 3)).astype(np.float32), "nothing": np.float32(0),
        "flat": np.array([rows, 1, 1]), "answer": answer,
    }  # fmt: skip
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", [batch, 3, side, side]), ("output", [batch, *answer.shape[1:]]))
    ]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "other_tool", values[:1], values[1:], stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def half(model: ModelProto) -> ModelProto:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def shapeless(model: ModelProto) -> ModelProto:
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


def constants_as_inputs(model: ModelProto) -> ModelProto:
    for tensor in list(model.graph.initializer):
        model.graph.input.insert(0, helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


def run(config: Path, model: ModelProto, mode: str = "evaluation", *overrides: str) -> tuple[dict[str, Any], list[str]]:
    onnx.save(model, config.with_name("model.onnx"))
    notes = Notes()
    return api.run(api.load_config(config, overrides, mode), notes).document["stages"], notes.notes


@pytest.mark.parametrize("head", ["yolox", "yolox_decoded", "yolov8"])
def test_a_head_that_the_config_names_is_read(config: Path, head: str) -> None:
    stages, notes = run(config, network(head), "evaluation", f"model.head={head}")
    assert stages["evaluate_float"]["metrics"]["AP"] == pytest.approx(1.0)
    assert any("doesn't say its preprocessing" in note for note in notes)


def test_the_transpose_of_the_yolov8_head_is_read(config: Path) -> None:
    rows = np.ascontiguousarray(answers("yolov8").transpose(0, 2, 1))
    stages, _ = run(config, network(given=rows), "evaluation", "model.head=yolov8")
    assert stages["evaluate_float"]["metrics"]["AP"] == pytest.approx(1.0)


SIZED = f"model.input_shape=[3,{SIZE},{SIZE}]"
FORMS = {
    "float16": (lambda: half(network()), []),
    "a batch of ten": (lambda: network(batch=10), []),
    "a dynamic batch": (lambda: network(batch="n"), []),
    "constants among the inputs": (lambda: constants_as_inputs(network()), []),
    "dynamic height and width": (lambda: network(side="side"), [SIZED]),
    "all dynamic": (lambda: network(batch="n", side="side"), [SIZED]),
    "no input shape": (lambda: shapeless(network()), [SIZED]),
}


@pytest.mark.parametrize("form", FORMS)
def test_whatever_form_it_comes_in_it_is_evaluated_quantized_benched_and_predicted_with(
    config: Path, form: str
) -> None:
    build, overrides = FORMS[form]
    stages, _ = run(config, build(), "chain_eqeb", *overrides)
    assert stages["evaluate_float"]["metrics"]["AP"] == pytest.approx(1.0)
    assert stages["evaluate_int8"]["metrics"]["AP50"] > 0.9
    assert {row["backend"] for row in stages["bench"]} == {"host", "estimate"}
    stages, _ = run(config, build(), "prediction", *overrides)
    assert stages["predict"]["images"] == IMAGES


@pytest.mark.parametrize("mode", ["evaluation", "quantization", "prediction", "benchmarking"])
@pytest.mark.parametrize("build", [lambda: network(side="side"), lambda: shapeless(network())])
def test_a_size_is_never_guessed(config: Path, build: Callable[[], ModelProto], mode: str) -> None:
    with pytest.raises(ArtifactError, match="doesn't say the size of its image") as caught:
        run(config, build(), mode)
    assert "`image` float32" in caught.value.message
    assert "model.input_shape" in caught.value.hint


def test_a_size_that_contradicts_the_file_is_refused(config: Path) -> None:
    with pytest.raises(ArtifactError, match="says 64 x 64, but the file's size is 96 x 96"):
        run(config, network(), "evaluation", "model.input_shape=[3,64,64]")


def test_a_batch_that_the_graph_itself_holds_is_refused(config: Path) -> None:
    """The mean over the batch: what one image gets depends on the others."""
    model = network(batch=10)
    model.graph.node.insert(3, node("ReduceMean", ["g"], ["mean"], axes=[0]))
    model.graph.node[4].input[:] = ["mean", "one"]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "one"))
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.array([1, 1, 1]), "flat"))
    with pytest.raises(ArtifactError, match="batch size 10 in its graph"):
        run(config, model)


@pytest.mark.parametrize(
    ("answer", "overrides", "message", "hint"),
    [
        (answers("yolox_decoded"), [], "decoded in the graph already", "yolox_decoded"),
        (answers("yolox_decoded"), ["model.head=null", "model.model_type=st_yolod"], "decoded in the graph", "yolox_decoded"),
        (answers("yolox"), ["model.head=yolox_decoded"], "are raw", "model.head: yolox"),
        (answers("yolov8"), [], r"\[1, 189, 7\]", "class_names"),
        (answers("yolox"), ["model.head=yolov8"], r"has \[1, 6, N\]", "class_names"),
        (answers("yolox") * 20, [], "no probabilities", "sigmoid"),
        (answers("yolov8") * [[[1 / SIZE]] * 4 + [[1]] * 2], ["model.head=yolov8"], "aren't in pixels", "pixels"),
        (answers("yolox"), ["model.head=null"], "nothing says how", "yolov8"),
        (answers("yolox"), ["dataset.class_names=[a,b,c]"], "with 3 classes", "class_names"),
        (answers("yolox")[:, :50], ["model.head=null", "model.model_type=st_yolod"], "189", "class_names"),
        (answers("yolox"), ["model.head=null", "model.model_type=ssd"], "ssd", "model"),
    ],
)  # fmt: skip
def test_outputs_that_are_something_else_are_told_before_anything_is_scored(
    config: Path, answer: np.ndarray, overrides: list[str], message: str, hint: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        run(config, network(given=answer.astype(np.float32)), "evaluation", *overrides)
    assert "`output` float32" in caught.value.message
    assert hint in caught.value.hint


def test_quantizing_and_benching_need_neither_family_nor_head_nor_classes(config: Path) -> None:
    text = config.read_text().replace("head: yolox, ", "").replace("  class_names: [disc, star]\n", "")
    text = "\n".join(line for line in text.splitlines() if "  val_" not in line)
    config.write_text(text)
    stages, notes = run(config, network(given=np.ones((1, 5, 9), np.float32)), "chain_qb")
    assert Path(stages["quantize"]["path"]).is_file()
    assert {row["backend"] for row in stages["bench"]} == {"host", "estimate"}
    assert any("doesn't say its preprocessing" in note for note in notes)


def test_the_int8_form_says_the_classes_and_preprocessing_that_the_config_said(config: Path) -> None:
    stages, _ = run(
        config, network(), "quantization", "preprocessing.rescaling.scale=0.5", "preprocessing.color_mode=rgb"
    )
    int8 = Path(stages["quantize"]["path"])
    spec = read_spec(int8)
    assert spec is not None
    assert (spec.class_names, spec.box_coding) == (("disc", "star"), "yolox")
    assert (spec.preprocess.scale, spec.preprocess.color_mode, spec.preprocess.size) == (0.5, "rgb", (SIZE, SIZE))
    text = config.read_text().replace("head: yolox, ", "").replace("  class_names: [disc, star]\n", "")
    config.write_text(text)
    loaded = api.load_config(config, [f"model.model_path={int8}"], "evaluation")
    asked = Notes()
    found = api.run(loaded, asked).document["stages"]["evaluate_int8"]
    assert found["metrics"]["AP50"] > 0.9
    assert asked.notes == []
    with pytest.raises(ConfigError, match="says of itself that it is yolox"):
        api.run(api.load_config(config, [f"model.model_path={int8}", "model.head=yolov8"], "evaluation"), Notes())


@pytest.mark.parametrize(
    ("mode", "overrides", "message"),
    [
        ("evaluation", ["model.head=yolov9"], "yolov8: .*4 . classes"),
        ("evaluation", ["model.model_type=st_yolod"], "says already how outputs are read"),
        ("training", ["model.model_name=st_yolodv2milli_actrelu_pt"], "says already"),
    ],
)
def test_a_head_that_means_nothing_is_refused(config: Path, mode: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        api.load_config(config, overrides, mode)


@pytest.mark.parametrize("mode", ["evaluation", "quantization", "prediction", "benchmarking"])
def test_a_graph_that_loads_and_cannot_be_run_is_the_files_fault(config: Path, mode: str) -> None:
    """A shape that only the pixels tell: no check without running it can see that it doesn't fit."""
    model = network()
    sides = [node("ReduceMax", ["image"], ["top"], keepdims=0), node("Cast", ["top"], ["side"], to=TensorProto.INT64)]
    unfit = [
        node("Add", ["side", "prime"], ["odd"]),
        node("Reshape", ["odd", "one"], ["wanted"]),
        node("Reshape", ["z", "wanted"], ["f"], "unfit"),
    ]
    kept = [n for n in model.graph.node if n.name != "flatten"]
    del model.graph.node[:]
    model.graph.node.extend([*kept[:-1], *sides, *unfit, kept[-1]])
    model.graph.initializer.append(numpy_helper.from_array(np.array(7), "prime"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    with pytest.raises(StdetError, match=r"can't be run|not static"):
        run(config, model, mode)


def test_files_that_are_benched_without_a_config_are_made_plain_too(config: Path, tmp_path: Path) -> None:
    """A batch of ten would count ten images' memory, float16 couldn't be fed, a dynamic size would be 1 x 1."""
    models = {"one": network(), "ten": network(batch=10), "half": half(network())}
    for name, model in models.items():
        onnx.save(model, tmp_path / f"lr=0.1_{name}.bin")  # what a file holds counts, not what it is called
    reports = api.bench(
        [str(tmp_path / f"lr=0.1_{name}.bin") for name in models], SilentReporter(), output=tmp_path / "b"
    ).document
    peaks = {r["model"]: r["activations_bytes"] for r in reports["reports"] if r["backend"] == "estimate"}
    assert len(peaks) == 3
    assert len(set(peaks.values())) == 1
    onnx.save(network(side="side"), tmp_path / "any.onnx")
    with pytest.raises(ArtifactError, match="doesn't say the size of its image"):
        api.bench([str(tmp_path / "any.onnx")], SilentReporter(), output=tmp_path / "c")
