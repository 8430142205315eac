"""`postprocessing` reaches every place that finds detections: a model of known answers tells what each must keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from stdet import api
from stdet.artifacts import ModelFile
from stdet.interfaces.reporter import SilentReporter
from stdet.structures import Detections, Thresholds

SIZE, STRIDES, IMAGES = 64, (8, 16, 32), 2
ANSWERS = {
    "A": ((4, 4, 24, 24), 0.9),
    "B": ((4, 4, 24, 14), 0.8),  # half of A: IoU 0.5
    "C": ((36, 36, 56, 56), 0.7),
    "D": ((36, 4, 56, 24), 0.3),
    "E": ((4, 36, 24, 56), 0.1),
}
"""What the model finds on any image: boxes and scores, all of the first of two classes."""
TRUTH = ((4, 4, 24, 24), (36, 36, 56, 54))  # A, and C with an IoU of 0.9
CONFIG = """\
model: {{ model_type: st_yolod, input_shape: [3, 64, 64], model_path: {folder}/model.onnx }}
dataset:
  dataset_name: coco
  class_names: [disc, star]
  val_images_path: {folder}/images
  val_annotations_path: {folder}/truth.json
  train_images_path: {folder}/images
  train_annotations_path: {folder}/truth.json
  prediction_path: {folder}/images
  num_workers: 0
hydra: {{ run: {{ dir: {folder}/run }} }}
"""
CASES = [
    ([], "ABCDE", "ABCD"),
    (["postprocessing.max_detection_boxes=2"], "AB", "AB"),
    (["postprocessing.NMS_thresh=0.3"], "ACDE", "ACD"),
    (["postprocessing.NMS_thresh=0.3", "postprocessing.max_detection_boxes=2"], "AC", "AC"),
]
"""Overrides, what is scored (from 0.001 on), what is drawn (from 0.25 on)."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("known")
    onnx.save(_model(), folder / "model.onnx")
    (folder / "images").mkdir()
    for index in range(IMAGES):
        Image.new("RGB", (SIZE, SIZE), (index, 0, 0)).save(folder / "images" / f"{index}.png")
    boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in TRUTH]
    document = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIZE, "height": SIZE} for i in range(IMAGES)],
        "annotations": [
            {"id": 10 * i + k, "image_id": i, "category_id": 0, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i in range(IMAGES)
            for k, box in enumerate(boxes)
        ],
        "categories": [{"id": 0, "name": "disc"}, {"id": 1, "name": "star"}],
    }
    (folder / "truth.json").write_text(json.dumps(document))
    (folder / "c.yaml").write_text(CONFIG.format(folder=folder))
    return folder / "c.yaml"


def _model() -> onnx.ModelProto:
    """Somebody else's graph in the YOLOX coding, which answers `ANSWERS` whatever it is shown."""
    raw = np.zeros((1, sum((SIZE // s) ** 2 for s in STRIDES), 7), np.float32)
    for row, ((x1, y1, x2, y2), score) in enumerate(ANSWERS.values()):  # in the first cells of stride 8
        raw[0, row] = [
            (x1 + x2) / 16 - row, (y1 + y2) / 16, np.log((x2 - x1) / 8), np.log((y2 - y1) / 8), 1.0, score, 0.0,
        ]  # fmt: skip
    constants = {"raw": raw, "zero": np.zeros((1, 1, 1), np.float32), "shape": np.array([1, 1, 1], np.int64)}
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean", "shape"], ["flat"]),
        helper.make_node("Mul", ["flat", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "raw"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "known",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(raw.shape))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(config: Path, mode: str, overrides: list[str]) -> api.RunResult:
    return api.run(api.load_config(config, overrides, mode), SilentReporter())


def names(scores: list[float]) -> str:
    """The answers with these scores."""
    return "".join(name for name, (_, score) in ANSWERS.items() if any(abs(score - s) < 1e-4 for s in scores))


@pytest.mark.parametrize(("overrides", "scored", "drawn"), CASES)
def test_predictions_keep_to_the_overlap_and_the_limit(
    config: Path, overrides: list[str], scored: str, drawn: str
) -> None:
    assert predicted(config, overrides) == [drawn] * IMAGES
    assert predicted(config, [*overrides, "postprocessing.confidence_thresh=0.001"]) == [scored] * IMAGES


@pytest.mark.parametrize(("confidence", "kept"), [(0.05, "ABCDE"), (0.5, "ABC"), (0.95, "")])
def test_predictions_keep_to_the_score_that_the_config_gives(config: Path, confidence: float, kept: str) -> None:
    assert predicted(config, [f"postprocessing.confidence_thresh={confidence}"]) == [kept] * IMAGES


def test_a_config_with_its_defaults_filled_in_predicts_the_same(config: Path) -> None:
    first = run(config, "prediction", [])
    assert predicted(first.run_dir / "config.yaml", []) == ["ABCD"] * IMAGES


def predicted(config: Path, overrides: list[str]) -> list[str]:
    result = run(config, "prediction", overrides)
    document = json.loads((result.run_dir / "predictions" / "predictions.json").read_text())
    assert document["thresholds"] == result.document["stages"]["predict"]["thresholds"]
    assert Thresholds.from_dict(document["thresholds"]).confidence == (
        float(overrides[-1].split("=")[1]) if overrides and "confidence" in overrides[-1] else 0.25
    )
    return [names([d["score"] for d in image["detections"]]) for image in document["images"]]


@pytest.mark.parametrize(("overrides", "scored", "drawn"), CASES)
def test_an_evaluation_scores_and_draws_by_the_same_overlap_and_limit(
    config: Path, overrides: list[str], scored: str, drawn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stdet.stages import evaluate

    pictures: list[Detections] = []
    draw = evaluate.draw_detections
    monkeypatch.setattr(
        evaluate, "draw_detections", lambda image, found, *rest: (pictures.append(found), draw(image, found, *rest))[1]
    )
    report = run(config, "evaluation", overrides).document["stages"]["evaluate_float"]
    assert report["detections"] == IMAGES * len(scored)
    assert report["metrics"]["AP50"] == pytest.approx(ap50(scored), abs=1e-6)
    assert [names(p.scores.tolist()) for p in pictures] == [drawn] * IMAGES


def test_an_evaluation_keeps_to_the_score_that_the_config_gives(config: Path) -> None:
    report = run(config, "evaluation", ["postprocessing.confidence_thresh=0.5"]).document["stages"]["evaluate_float"]
    assert report["detections"] == IMAGES * len("ABC")
    assert report["thresholds"] == {"confidence": 0.5, "nms_iou": 0.65, "max_detections": None}


@pytest.mark.parametrize(("overrides", "scored", "drawn"), CASES)
def test_the_judge_of_a_quantization_scores_by_the_thresholds_of_an_evaluation(
    config: Path, overrides: list[str], scored: str, drawn: str
) -> None:
    from stdet.build import Builder
    from stdet.evaluation.drop import DropReport
    from stdet.plugins.loader import load_plugins
    from stdet.quantizing import judge

    checked = api.load_config(config, overrides, "quantization")
    builder = Builder(checked, load_plugins()[0])
    spec = builder.foreign_spec(("disc", "star"), "model", 3)
    images = builder.dataset("val", spec.class_names, spec=spec)
    model = ModelFile.at(config.parent / "model.onnx")
    evaluator = judge.make_evaluator(builder, spec, images, None, SilentReporter())
    assert evaluator.score(model.path) == pytest.approx(ap50(scored), abs=1e-6)
    report: DropReport = judge.compare_forms(builder, spec, model, model, images, SilentReporter())
    assert report.floating["AP50"] == report.quantized["AP50"] == pytest.approx(ap50(scored), abs=1e-6)
    assert report.to_dict()["thresholds"] == {
        "confidence": 0.001,
        "nms_iou": checked.postprocessing.NMS_thresh,
        "max_detections": checked.postprocessing.max_detection_boxes,
    }


def test_the_result_table_has_each_score_under_its_own_name(config: Path) -> None:
    result = run(config, "evaluation", [])
    metrics: dict[str, Any] = result.document["stages"]["evaluate_float"]["metrics"]
    assert metrics["AP50"] - metrics["AP"] > 0.01  # else one could stand for the other
    (row,) = result.tables[-1].rows
    shown = dict(zip(result.tables[-1].columns, row, strict=True))
    assert (shown["AP"], shown["AP50"]) == (f"{metrics['AP']:.4f}", f"{metrics['AP50']:.4f}")


def ap50(kept: str) -> float:
    """Average precision of A and C against `TRUTH`, by hand: COCO takes the best precision from each of 101 recalls on."""
    right = [name in "AC" for name in kept]
    precision = [sum(right[: n + 1]) / (n + 1) for n in range(len(right))]
    recall = [sum(right[: n + 1]) / len(TRUTH) for n in range(len(right))]
    best = [max((p for p, r in zip(precision, recall, strict=True) if r >= t / 100), default=0.0) for t in range(101)]
    return sum(best) / 101
