"""Evaluation: AP against pycocotools with files, NMS against slow Python, empty images, integer inputs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from stdet.artifacts import ModelFile
from stdet.data.preprocess import Geometry
from stdet.errors import ArtifactError, DataError, ModelError
from stdet.evaluation.coco import METRICS, EvaluationReport, evaluate, score
from stdet.evaluation.plots import (
    PALETTE,
    contact_sheet,
    draw_detections,
    place_labels,
    plot_history,
    plot_precision_recall,
    save_image,
    with_legend,
)
from stdet.evaluation.postprocess import detect, select
from stdet.evaluation.predictors import OnnxPredictor, TorchPredictor
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Candidates, Detector, Targets
from stdet.structures import Annotation, Detections, DetectorSpec, Preprocess, Thresholds

USUAL = Thresholds(0.001, 0.65)


class Given(DetectionDataset):
    """Random ground truth; the last image has none."""

    class_names = ("a", "b", "c")

    def __init__(self, seed: int, count: int = 6, ignore: float = 0.1) -> None:
        rng = np.random.default_rng(seed)
        self.annotations = []
        for index in range(count):
            n = 0 if index == count - 1 else int(rng.integers(1, 6))
            corner = rng.uniform(0, 150, (n, 2))
            boxes = np.hstack([corner, corner + rng.uniform(5, 120, (n, 2))]).astype(np.float32)
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) * rng.uniform(0.4, 1, n)
            labels = rng.integers(0, 3, n)
            self.annotations.append(
                Annotation(100 + index, None, 300, 320, boxes, labels, rng.random(n) < ignore, areas.astype(np.float32))
            )

    def __len__(self) -> int:
        return len(self.annotations)

    def annotation(self, index: int) -> Annotation:
        return self.annotations[index]

    def read_image(self, index: int) -> np.ndarray:
        return np.full((300, 320, 3), index, np.uint8)


def guesses(dataset: Given, seed: int) -> dict[int, Detections]:
    """The truth, shaken, with some wrong boxes."""
    rng = np.random.default_rng(seed)
    found = {}
    for index in range(len(dataset)):
        a = dataset.annotation(index)
        wrong = rng.uniform(0, 150, (3, 2))
        boxes = np.vstack([a.boxes + rng.normal(0, 4, a.boxes.shape), np.hstack([wrong, wrong + 60])]).astype(
            np.float32
        )
        labels = np.concatenate([a.labels, rng.integers(0, 3, 3)])
        found[index] = Detections(boxes, rng.random(len(boxes)).astype(np.float32), labels)
    return found


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_numbers_are_those_of_pycocotools_fed_with_files(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("coco")
    dataset = Given(seed)
    found = guesses(dataset, seed + 1)
    images, annotations, results = [], [], []
    for index in range(len(dataset)):
        a = dataset.annotation(index)
        images.append({"id": a.image_id, "width": a.width, "height": a.height})
        for box, label, ignore, area in zip(a.boxes.tolist(), a.labels, a.ignore, a.areas, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": a.image_id,
                    "category_id": int(label) + 11,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "area": float(area),
                    "iscrowd": int(ignore),
                }
            )
        d = found[index]
        for box, one, label in zip(d.boxes.astype(float).tolist(), d.scores, d.labels, strict=True):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": a.image_id, "category_id": int(label) + 11, "bbox": bbox, "score": float(one)})
    categories = [{"id": 11 + k, "name": n} for k, n in enumerate(dataset.class_names)]
    (folder / "gt.json").write_text(
        json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": categories})
    )
    (folder / "dt.json").write_text(json.dumps(results))
    truth = COCO(str(folder / "gt.json"))
    judge = COCOeval(truth, truth.loadRes(str(folder / "dt.json")), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    metrics, per_class, _, count, curves, _ = score(dataset, found)
    assert count == sum(int((~a.ignore).sum()) for a in dataset.annotations)
    for name, expected in zip(METRICS, judge.stats, strict=True):
        assert (metrics[name] is None) == (expected < 0)
        if expected >= 0:
            assert metrics[name] == pytest.approx(expected, abs=1e-9)
    known = [v["AP"] for v in per_class.values() if v["AP"] is not None]
    assert np.mean(known) == pytest.approx(judge.stats[0], abs=1e-9)
    for name, expected in (("AP50", judge.stats[1]), ("AP75", judge.stats[2])):
        assert np.mean(curves[name]) == pytest.approx(expected, abs=1e-9)


def test_another_iou_threshold_adds_its_own_number() -> None:
    dataset = Given(1, ignore=0)
    found = guesses(dataset, 2)
    strict, loose = (score(dataset, found, t)[0] for t in (0.75, 0.3))
    assert strict["AP@0.75"] == pytest.approx(strict["AP75"])
    assert loose["AP@0.3"] is not None
    assert loose["AP50"] is not None
    assert loose["AP@0.3"] >= loose["AP50"]
    assert "AP@0.5" not in score(dataset, found)[0]


def test_false_positives_on_an_image_without_objects_cost_precision() -> None:
    dataset = Given(3, ignore=0)
    perfect = {
        i: Detections(a.boxes, np.full(len(a.labels), 0.5, np.float32), a.labels)
        for i, a in enumerate(dataset.annotations)
    }
    assert score(dataset, perfect)[0]["AP"] == pytest.approx(1.0)
    ghost = np.array([[10, 10, 60, 60]] * 3, np.float32)
    perfect[len(dataset) - 1] = Detections(ghost, np.full(3, 0.9, np.float32), np.arange(3))
    worse = score(dataset, perfect)[0]["AP"]
    assert worse is not None
    assert worse < 0.9


def test_nothing_found_is_zero_and_nothing_to_find_is_unknown() -> None:
    nothing = {
        i: Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)) for i in range(6)
    }
    dataset = Given(1, ignore=0)
    scored = score(dataset, nothing, 0.3)
    assert scored.metrics["AP"] == scored.metrics["AP@0.3"] == 0
    present = set(np.concatenate([a.labels for a in dataset.annotations]).tolist())
    for label, name in enumerate(dataset.class_names):
        assert scored.per_class[name]["AP"] == (0 if label in present else None)
    largest = max(float(a.areas.max(initial=0)) for a in dataset.annotations)
    assert (scored.metrics["AP_large"] is None) == (largest < 96**2)
    unknown = score(Given(1, count=1), nothing)
    assert set(unknown.metrics.values()) == {None}
    assert unknown.curves == {}


def test_the_hash_of_the_truth_changes_with_what_the_score_depends_on() -> None:
    first, second = Given(1), Given(1)
    assert score(first, {}).dataset_sha256 == score(second, {}).dataset_sha256
    second.annotations[0].areas[0] += 1
    assert score(first, {}).dataset_sha256 != score(second, {}).dataset_sha256


@pytest.mark.parametrize(
    ("ignored", "extra", "right"),
    [
        ("crowd", [[210, 210, 240, 240], [250, 250, 290, 290]], True),
        ("difficult", [[210, 210, 240, 240]], False),  # lies inside, but is another thing: IoU 0.09
        ("difficult", [[200, 200, 300, 300], [200, 201, 300, 300]], True),
    ],
)
def test_detections_on_an_ignored_region_are_neither_right_nor_wrong(
    ignored: Literal["crowd", "difficult"], extra: list[list[int]], right: bool
) -> None:
    dataset = Given(3, ignore=0)
    dataset.ignored = ignored
    truth = dataset.annotations[0]
    region = np.array([[200, 200, 300, 300]], np.float32)
    dataset.annotations[0] = Annotation(
        truth.image_id,
        None,
        truth.height,
        truth.width,
        np.vstack([truth.boxes, region]),
        np.append(truth.labels, 0),
        np.append(truth.ignore, True),
        np.append(truth.areas, np.float32(1e4)),
    )
    found = {
        i: Detections(a.boxes[~a.ignore], np.full(int((~a.ignore).sum()), 0.5, np.float32), a.labels[~a.ignore])
        for i, a in enumerate(dataset.annotations)
    }
    d = found[0]
    more = Detections(
        np.vstack([np.array(extra, np.float32), d.boxes]),
        np.append(np.full(len(extra), 0.9, np.float32), d.scores),
        np.append(np.zeros(len(extra), np.int64), d.labels),
    )
    assert (score(dataset, found | {0: more}).metrics["AP"] == pytest.approx(1.0)) == right


def slow_nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, confidence: float, overlap: float) -> list[int]:
    kept: list[int] = []
    for i in sorted((i for i in range(len(scores)) if scores[i] >= confidence), key=lambda i: -scores[i]):
        for j in kept:
            if labels[i] != labels[j]:
                continue
            w = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
            h = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
            both = max(w, 0) * max(h, 0)
            area = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[j])]
            if both / (area[0] + area[1] - both) > overlap:
                break
        else:
            kept.append(i)
    return kept


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), overlap=st.sampled_from([0.3, 0.65]), limit=st.sampled_from([None, 4]))
def test_selection_is_the_slow_one(seed: int, overlap: float, limit: int | None) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (1, 25, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 50, (1, 25, 2))], -1).astype(np.float32)
    scores = rng.random((1, 25, 3)).astype(np.float32)
    found = select(Candidates(torch.from_numpy(boxes), torch.from_numpy(scores)), Thresholds(0.6, overlap, limit))[0]
    best, labels = scores[0].max(-1), scores[0].argmax(-1)
    expected = slow_nms(boxes[0].astype(float), best, labels, 0.6, overlap)[:limit]
    np.testing.assert_array_equal(found.boxes, boxes[0][expected])
    np.testing.assert_array_equal(found.labels, labels[expected])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_with_several_labels_an_anchor_speaks_for_every_class_that_scores_enough(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (12, 2))
    boxes = np.hstack([corner, corner + rng.uniform(5, 50, (12, 2))]).astype(np.float32)
    scores = rng.random((12, 3)).astype(np.float32)
    candidates = Candidates(torch.from_numpy(boxes)[None], torch.from_numpy(scores)[None], multi_label=True)
    found = select(candidates, Thresholds(0.5, 0.4))[0]
    anchors, labels = np.repeat(np.arange(12), 3), np.tile(np.arange(3), 12)
    expected = slow_nms(boxes[anchors].astype(float), scores.ravel(), labels, 0.5, 0.4)
    np.testing.assert_array_equal(found.boxes, boxes[anchors[expected]])
    np.testing.assert_array_equal(found.labels, labels[expected])
    np.testing.assert_array_equal(found.scores, scores.ravel()[expected])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), limit=st.integers(1, 6))
def test_a_limit_a_class_keeps_the_best_of_what_nms_without_it_keeps(seed: int, limit: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (1, 90, 2))
    boxes = torch.from_numpy(np.concatenate([corner, corner + rng.uniform(20, 50, (1, 90, 2))], -1).astype(np.float32))
    scores = torch.from_numpy(rng.integers(1, 30, (1, 90, 2)).astype(np.float32) / 30)  # with ties
    candidates = Candidates(boxes, scores, multi_label=True)
    thresholds = Thresholds(0.1, 0.3)
    everything, limited = select(candidates, thresholds)[0], select(candidates, thresholds, max_per_class=limit)[0]
    rank = [int((everything.labels[:i] == label).sum()) for i, label in enumerate(everything.labels)]
    expected = [i for i, place in enumerate(rank) if place < limit]
    np.testing.assert_array_equal(limited.boxes, everything.boxes[expected])
    np.testing.assert_array_equal(limited.scores, everything.scores[expected])
    np.testing.assert_array_equal(select(candidates, Thresholds(0.1, 0.3, limit))[0].boxes, everything.boxes[:limit])


class TwoAtOnce:
    """Sees one box that may be either class, and says so of every image."""

    def __init__(self, multi_label: bool) -> None:
        self.multi_label = multi_label

    def __call__(self, images: Tensor) -> Candidates:
        boxes = torch.tensor([[[1.0, 2, 5, 6]]]).repeat(len(images), 1, 1)
        return Candidates(boxes, torch.tensor([[[0.6, 0.5, 0.0]]]).repeat(len(images), 1, 1), self.multi_label)


@pytest.mark.parametrize("multi_label", [True, False])
def test_evaluation_and_pictures_take_from_the_model_whether_a_box_may_be_of_several_classes(multi_label: bool) -> None:
    dataset, preprocess = Given(1), Preprocess(8, 8)
    report = evaluate(TwoAtOnce(multi_label), dataset, preprocess, USUAL)
    found = detect(TwoAtOnce(multi_label), dataset.read_image(0), preprocess, Thresholds(0.25, 0.5))
    assert report.detections == len(dataset) * (2 if multi_label else 1)
    assert found.labels.tolist() == ([0, 1] if multi_label else [0])


def test_a_box_that_overflowed_is_left_out_and_spoils_no_other() -> None:
    boxes = torch.tensor([[[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, torch.inf, 5], [0, 0, torch.nan, 5]]])
    found = select(Candidates(boxes, torch.tensor([[[0.9], [0.8], [0.95], [torch.nan]]])), Thresholds(0.1, 0.5))[0]
    np.testing.assert_array_equal(found.boxes, [[0, 0, 10, 10]])


def test_overlaps_near_the_threshold_are_decided_by_the_boxes_as_they_are() -> None:
    """Moved apart by class, as torchvision's `batched_nms` does, boxes of a late class lose the digits that count."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        corner, side = rng.uniform(0, 300, 2), rng.uniform(5, 30, 2)
        shift = np.array([side[0] * 0.35 / 1.65 * (1 + rng.normal() * 2e-5), 0])  # IoU close to 0.65
        pairs = np.array([[*corner, *(corner + side)], [*(corner + shift), *(corner + shift + side)]])
        boxes = np.vstack([pairs, [0, 0, 416, 416]]).astype(np.float32)
        scores = np.zeros((1, 3, 80), np.float32)
        scores[0, [0, 1, 2], [79, 79, 0]] = 0.9, 0.8, 0.7
        found = select(Candidates(torch.from_numpy(boxes)[None], torch.from_numpy(scores)), Thresholds(0.5, 0.65))[0]
        exact = boxes[:2].astype(np.float64)
        both = np.clip(exact[:, 2:].min(0) - exact[:, :2].max(0), 0, None).prod()
        overlap = both / ((exact[:, 2:] - exact[:, :2]).prod(1).sum() - both)
        if abs(overlap - 0.65) > 1e-6:  # what float32 can tell apart
            assert len(found) == (2 if overlap > 0.65 else 3)


class OneBox(Detector):
    """Decodes a (B, 1, 5) output: a box in input pixels and a score."""

    output_names = ("output",)

    def __init__(self) -> None:
        super().__init__()
        self.spec = DetectorSpec("one", "one", ("a",), Preprocess(8, 8), "one", (8,))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (images,)

    def loss(self, raw: Sequence[Tensor], targets: Targets, *, augmentation_closed: bool = False) -> dict[str, Tensor]:
        raise NotImplementedError

    def export_outputs(self, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(raw)

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        return Candidates(outputs[0][..., :4], outputs[0][..., 4:])

    def class_dependent_keys(self) -> frozenset[str]:
        return frozenset()


def border_model(tmp_path: Path, in_type: int, out_type: int) -> Path:
    """Reads (1, 3, 8, 8), answers the constant box (1, 2, 5, 6) with the mean of the image as its score."""
    nodes, constants = [], [numpy_helper.from_array(np.array([[[1, 2, 5, 6]]], np.float32), "box")]
    current = "input"
    if in_type != TensorProto.FLOAT:
        zero = np.array(-128 if in_type == TensorProto.INT8 else 0, helper.tensor_dtype_to_np_dtype(in_type))
        constants += [numpy_helper.from_array(np.array(1.0, np.float32), "si"), numpy_helper.from_array(zero, "zi")]
        nodes.append(helper.make_node("DequantizeLinear", ["input", "si", "zi"], ["real"]))
        current = "real"
    nodes += [
        helper.make_node("GlobalAveragePool", [current], ["mean"]),
        helper.make_node("ReduceMean", ["mean"], ["grey"], axes=[1, 2], keepdims=0),
        helper.make_node("Reshape", ["grey", "shape"], ["flat"]),
        helper.make_node("Div", ["flat", "full"], ["score"]),
        helper.make_node("Concat", ["box", "score"], ["joined" if out_type != TensorProto.FLOAT else "output"], axis=2),
    ]
    constants += [
        numpy_helper.from_array(np.array([1, 1, 1]), "shape"),
        numpy_helper.from_array(np.array(255, np.float32), "full"),
    ]
    if out_type != TensorProto.FLOAT:
        zero = np.array(3, helper.tensor_dtype_to_np_dtype(out_type))
        constants += [numpy_helper.from_array(np.array(0.05, np.float32), "so"), numpy_helper.from_array(zero, "zo")]
        nodes.append(helper.make_node("QuantizeLinear", ["joined", "so", "zo"], ["output"]))
    graph = helper.make_graph(
        nodes,
        "border",
        [helper.make_tensor_value_info("input", in_type, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("output", out_type, [1, 1, 5])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = tmp_path / "border.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("in_type", [TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8])
@pytest.mark.parametrize("out_type", [TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8])
def test_integer_borders_are_converted_by_their_own_scales(tmp_path: Path, in_type: int, out_type: int) -> None:
    predictor = OnnxPredictor(ModelFile.at(border_model(tmp_path, in_type, out_type)), OneBox())
    images = torch.stack([torch.full((3, 8, 8), 51.0), torch.full((3, 8, 8), 204.0)])
    found = predictor(images)
    np.testing.assert_allclose(found.boxes[:, 0].numpy(), [[1, 2, 5, 6]] * 2, atol=0.03)
    np.testing.assert_allclose(found.scores[:, 0, 0].numpy(), [0.2, 0.8], atol=0.03)


def test_int8_sums_are_exact_on_every_processor(tmp_path: Path) -> None:
    """Without VNNI, onnxruntime's fastest int8 kernels cut pairs of products off at 16 bits; large ones show it."""
    weights = np.full((5, 3, 8, 8), 127, np.int8)
    scales = {"x": 1.0, "w": 0.01, "b": 0.01, "y": 200.0}
    constants = [numpy_helper.from_array(np.array(v, np.float32), f"s{k}") for k, v in scales.items()]
    constants += [
        numpy_helper.from_array(np.array(z, np.int8), f"z{k}") for k, z in {"x": -128, "w": 0, "y": -128}.items()
    ]
    constants += [
        numpy_helper.from_array(weights, "wq"),
        numpy_helper.from_array(np.array([1, 1, 5], np.int64), "shape"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "sx", "zx"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["x"]),
        helper.make_node("DequantizeLinear", ["wq", "sw", "zw"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "sy", "zy"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "sy", "zy"], ["z"]),
        helper.make_node("Reshape", ["z", "shape"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sums",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, 5])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "sums.onnx")
    found = OnnxPredictor(ModelFile.at(tmp_path / "sums.onnx"), OneBox())(torch.full((1, 3, 8, 8), 200.0))
    exact = 200 * 127 * 0.01 * 3 * 64
    assert float(found.scores[0, 0, 0]) == pytest.approx(exact, abs=100)


def test_a_batch_is_the_same_as_its_images_one_by_one(tmp_path: Path) -> None:
    path = border_model(tmp_path, TensorProto.FLOAT, TensorProto.FLOAT)
    images = torch.rand(3, 3, 8, 8) * 255
    predictor = OnnxPredictor(ModelFile.at(path), OneBox(), threads=1)
    together = predictor(images)
    for i in range(3):
        assert torch.equal(together.scores[i], predictor(images[i : i + 1]).scores[0])


def test_a_file_of_another_input_size_or_class_count_is_an_error(tmp_path: Path) -> None:
    path = border_model(tmp_path, TensorProto.FLOAT, TensorProto.FLOAT)
    larger, more = OneBox(), OneBox()
    larger.spec = DetectorSpec("one", "one", ("a",), Preprocess(8, 16), "one", (8,))
    with pytest.raises(ArtifactError, match=r"takes an input of \[1, 3, 8, 8\]; the model's spec says \[1, 3, 8, 16\]"):
        OnnxPredictor(ModelFile.at(path), larger)
    more.spec = DetectorSpec("one", "one", ("a", "b"), Preprocess(8, 8), "one", (8,))
    with pytest.raises(ModelError, match="scores 1 classes, but 2 are named"):
        OnnxPredictor(ModelFile.at(path), more)(torch.zeros(1, 3, 8, 8))


class Swapped(OneBox):
    """Wants the score before the box."""

    output_names = ("score", "box")

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int] | None = None) -> Candidates:
        return Candidates(outputs[1], outputs[0])


def two_outputs(tmp_path: Path, names: Sequence[str]) -> Path:
    """A constant box and a constant score, in this order, under these names."""
    values = (np.array([[[1, 2, 5, 6]]], np.float32), np.array([[[0.5]]], np.float32))
    zero = numpy_helper.from_array(np.zeros((1, 1, 1), np.float32), "zero")
    nodes = [
        helper.make_node("GlobalMaxPool", ["input"], ["pooled"]),
        helper.make_node("ReduceMax", ["pooled"], ["flat"], axes=[1], keepdims=0),
        helper.make_node("Mul", ["flat", "zero"], ["nothing"]),
    ]
    constants = [zero]
    for name, value in zip(names, values, strict=True):
        constants.append(numpy_helper.from_array(value, f"value_{name}"))
        nodes.append(helper.make_node("Add", [f"value_{name}", "nothing"], [name]))
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
        for name, value in zip(names, values, strict=True)
    ]
    graph = helper.make_graph(
        nodes, "two", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 8, 8])], outputs, constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "two.onnx")
    return tmp_path / "two.onnx"


def test_outputs_are_taken_by_name_and_their_number_is_checked(tmp_path: Path) -> None:
    path = two_outputs(tmp_path, ("box", "score"))
    found = OnnxPredictor(ModelFile.at(path), Swapped())(torch.zeros(1, 3, 8, 8))
    assert found.boxes.tolist() == [[[1, 2, 5, 6]]]
    assert found.scores.tolist() == [[[0.5]]]
    with pytest.raises(ArtifactError, match="has the outputs box, score; one has 1"):
        OnnxPredictor(ModelFile.at(path), OneBox())


def test_an_integer_border_without_quantization_is_an_error(tmp_path: Path) -> None:
    path = border_model(tmp_path, TensorProto.UINT8, TensorProto.FLOAT)
    model = onnx.load(path)
    model.graph.node[0].CopyFrom(helper.make_node("Cast", ["input"], ["real"], to=TensorProto.FLOAT))
    onnx.save(model, path)
    with pytest.raises(ArtifactError, match="no DequantizeLinear says what its values mean"):
        OnnxPredictor(ModelFile.at(path), OneBox())


class Hungry(OneBox):
    """Holds `most` images in memory; the score of each is its first value."""

    most = 2

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 planets")
        return (images[:, :1, 0, :5],)


def test_out_of_memory_predicts_fewer_images_at_a_time_and_says_so_once() -> None:
    notes: list[str] = []
    images = torch.rand(7, 3, 8, 8)
    predictor = TorchPredictor(Hungry(), note=notes.append)
    for _ in range(2):
        assert torch.equal(predictor(images).scores, images[:, :1, 0, 4:5])
    assert notes == [f"out of memory: at most {n} images are predicted at a time now" for n in (3, 1)]


def test_an_image_that_memory_does_not_hold_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "most", 0)
    with pytest.raises(ModelError, match="out of memory on cpu, with a single image"):
        TorchPredictor(Hungry())(torch.rand(4, 3, 8, 8))


def test_the_torch_predictor_puts_the_mode_back_even_after_a_failure() -> None:
    class Fails(OneBox):
        def export_outputs(self, raw: Sequence[Tensor]) -> tuple[Tensor, ...]:
            assert not self.training
            raise RuntimeError("planted")

    model = Fails().train()
    with pytest.raises(RuntimeError, match="planted"):
        TorchPredictor(model)(torch.zeros(1, 3, 8, 8))
    assert model.training


def test_a_file_that_is_no_onnx_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match=r"x\.onnx"):
        OnnxPredictor(ModelFile.at(tmp_path / "x.onnx"), OneBox())


def test_the_whole_way_from_images_to_a_report(tmp_path: Path) -> None:
    dataset = Given(5, ignore=0)
    preprocess = Preprocess(8, 8, "letterbox")
    ratio = 8 / 320
    seen: list[int] = []

    def oracle(images: Tensor) -> Candidates:
        """Knows the image by its colour and answers its ground truth."""
        boxes, scores = torch.zeros(len(images), 6, 4), torch.zeros(len(images), 6, 3)
        for row, image in enumerate(images):
            a = dataset.annotation(int(image[0, 0, 0]))
            seen.append(int(image[0, 0, 0]))
            n = len(a.labels)
            boxes[row, :n] = torch.from_numpy(Geometry(ratio, ratio).to_input(a.boxes))
            scores[row, range(n), a.labels] = 0.9
        return Candidates(boxes, scores)

    ticks: list[int] = []
    report = evaluate(oracle, dataset, preprocess, USUAL, batch_size=4, progress=lambda done, total: ticks.append(done))
    assert sorted(seen) == list(range(6))
    assert ticks[-1] == 6
    assert report.metrics["AP"] == pytest.approx(1.0)
    assert report.images == 6
    assert report.thresholds == USUAL
    report.save(tmp_path / "r.json")
    assert EvaluationReport.read(tmp_path / "r.json") == report
    old = report.to_dict() | {
        "format": "stdet.evaluation/1",
        "thresholds": {"confidence": 0.001, "nms": 0.65, "max_detections": None},
    }
    (tmp_path / "r.json").write_text(json.dumps(old))
    assert EvaluationReport.read(tmp_path / "r.json") == report
    for text, message in (
        ('{"format": "other"}', "not an evaluation report"),
        ("[]", "not an evaluation report"),
        ('{"format": "stdet.evaluation/2"}', "damaged"),
        ('{"format": "stdet.evaluation/2", "thresholds": {"confidence": 0.1}}', "damaged"),
        ('{"format": "stdet.evaluation/2", "thresholds": [0.1, 0.2]}', "damaged"),
        ('{"format": "stdet.evaluation/3"}', "not an evaluation report"),
        ("{", "cannot read"),
    ):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(ArtifactError, match=message):
            EvaluationReport.read(tmp_path / "r.json")
    one = detect(oracle, dataset.read_image(0), preprocess, Thresholds(0.5, 0.65))
    np.testing.assert_allclose(np.sort(one.boxes, 0), np.sort(dataset.annotation(0).boxes, 0), atol=1)


def test_a_model_of_another_class_count_is_an_error_and_not_a_score_of_zero() -> None:
    def five_classes(images: Tensor) -> Candidates:
        return Candidates(torch.zeros(len(images), 1, 4), torch.zeros(len(images), 1, 5))

    with pytest.raises(ModelError, match="scores 5 classes, the data set has 3"):
        evaluate(five_classes, Given(1), Preprocess(8, 8), USUAL)


def test_an_empty_evaluation_set_is_an_error() -> None:
    with pytest.raises(DataError, match="no image"):
        evaluate(lambda images: Candidates(images, images), Given(1, count=0), Preprocess(8, 8), USUAL)


def test_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    score(Given(1), guesses(Given(1), 2))
    assert capsys.readouterr().out == ""


def test_pictures_are_written_and_show_the_boxes(tmp_path: Path) -> None:
    image = np.zeros((80, 100, 3), np.uint8)
    found = Detections(np.array([[20, 30, 70, 60]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    drawn = draw_detections(image, found, ["a"], np.array([[5, 5, 15, 15]]))
    assert drawn[45, 20].any()
    assert (drawn[10, 5] == 255).all()
    assert not image.any()
    save_image(tmp_path / "sheet.png", contact_sheet([drawn] * 5))
    history = [
        {"epoch": 1.0, "total": 3.0, "box_loss": 1.0},
        {"epoch": 2.0, "total": 2.0, "box_loss": 0.5, "AP": 0.1, "AP50": 0.3},
    ]
    plot_history(history, tmp_path / "curves.png")
    plot_precision_recall({"AP50": [1.0, 0.8, 0.0]}, tmp_path / "pr.png")
    plot_precision_recall({}, tmp_path / "nothing.png")
    assert (tmp_path / "pr.png").stat().st_size > (tmp_path / "nothing.png").stat().st_size > 2000
    assert (tmp_path / "sheet.png").stat().st_size > 500
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_labels_stand_inside_the_picture_and_on_no_other_label() -> None:
    rng = np.random.default_rng(0)
    sizes = [(60, 12)] * 12
    corners = rng.integers(0, 260, (12, 2))
    boxes = [(x, y, x + 60, y + 40) for x, y in corners.tolist()] + [(2, 1, 318, 290)]
    placed = place_labels(boxes, [*sizes, (60, 12)], 320, 300)
    assert all(0 <= x1 < x2 <= 320 and 0 <= y1 < y2 <= 300 for x1, y1, x2, y2 in placed)
    painted = np.zeros((300, 320), int)
    for x1, y1, x2, y2 in placed:
        painted[y1:y2, x1:x2] += 1
    assert painted.max() == 1
    twins = place_labels([(50, 50, 90, 90)] * 3, [(40, 12)] * 3, 320, 300)
    assert len(set(twins)) == 3


def test_a_sheet_says_what_its_boxes_are_and_small_images_are_drawn_large() -> None:
    found = Detections(np.array([[2, 3, 7, 6]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    drawn = draw_detections(np.zeros((8, 10, 3), np.uint8), found, ["a"], np.array([[1, 1, 4, 4]]), least_width=320)
    assert drawn.shape == (256, 320, 3)
    assert tuple(drawn[6 * 32, 5 * 32]) == PALETTE[0]
    assert tuple(drawn[2 * 32, 1 * 32]) == (255, 255, 255)
    sheet = with_legend(contact_sheet([drawn]))
    assert sheet.shape == (256 + 24, 320, 3)
    assert {PALETTE[0], (255, 255, 255)} <= set(map(tuple, sheet[256:].reshape(-1, 3).tolist()))


def test_suppressing_boxes_needs_torchvisions_operator_and_not_its_package() -> None:
    """It brings torch's compiler: 160 MiB and more than 2 s of each evaluation and prediction."""
    code = (
        "import sys, torch, stdet.stages.quantize; from stdet.evaluation.postprocess import select\n"
        "from stdet.interfaces.detector import Candidates; from stdet.structures import Thresholds\n"
        "boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9]]])\n"
        "(found,) = select(Candidates(boxes, torch.tensor([[[0.9], [0.8]]])), Thresholds(0.1, 0.5))\n"
        "assert len(found) == 1; assert 'torchvision' not in sys.modules; assert 'torch._dynamo' not in sys.modules\n"
        "from torchvision.ops import nms\n"
        "assert nms(boxes[0], torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_epochs_of_the_curves_are_whole_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    ticks: list[float] = []

    def look(figure: Figure, *_: object, **__: object) -> None:
        for axes in figure.axes:
            low, high = axes.get_xlim()
            ticks.extend(tick for tick in axes.get_xticks() if low <= tick <= high)

    monkeypatch.setattr(Figure, "savefig", look)
    for last in (1, 2, 3):
        plot_history([{"epoch": float(n), "total": 1.0, "AP": 0.5} for n in range(1, last + 1)], tmp_path / "c.png")
    assert len(ticks) >= 8
    assert all(tick == round(tick) for tick in ticks)
