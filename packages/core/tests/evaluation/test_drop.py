"""What int8 costs by part: each part is spoilt alone, so the answer is known beforehand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stdet.data.loader import EvalLoader
from stdet.evaluation.coco import evaluate
from stdet.evaluation.drop import DropReport, Verdict, compare
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Candidates, OutputPart
from stdet.structures import Annotation, Preprocess, Thresholds

SIZE = 64
THRESHOLDS = Thresholds(0.01, 0.65)
JOINED = ((OutputPart("boxes", 0, 0, 4), "output"), (OutputPart("classes", 0, 4), "output"))
APART = ((OutputPart("classes", 0), "scores"), (OutputPart("boxes", 1), "boxes"))


class Squares(DetectionDataset):
    """One box an image, which the image's brightness tells apart; classes take turns."""

    class_names = ("a", "b")

    def __len__(self) -> int:
        return 6

    def annotation(self, index: int) -> Annotation:
        box = np.array([[5 + index, 6, 35 + index, 40]], np.float32)
        area = np.array([30 * 34], np.float32)
        return Annotation(index, None, SIZE, SIZE, box, np.array([index % 2]), np.zeros(1, bool), area)

    def read_image(self, index: int) -> np.ndarray:
        return np.full((SIZE, SIZE, 3), index, np.uint8)


class Oracle:
    """Knows the truth, and tells it wrongly where it is told to; outputs joined as in YOLOX or apart as in SSD."""

    def __init__(self, joined: bool, shift: float = 0.0, swap: Sequence[int] = ()) -> None:
        self.joined, self.shift, self.swap = joined, shift, swap

    def outputs(self, images: Tensor) -> list[Tensor]:
        indices = images[:, 0, 0, 0].round().int().tolist()
        truth = [Squares().annotation(i) for i in indices]
        boxes = torch.tensor(np.stack([a.boxes for a in truth])) + self.shift
        scores = torch.zeros(len(indices), 1, 2)
        for row, (index, a) in enumerate(zip(indices, truth, strict=True)):
            label = int(a.labels[0])
            scores[row, 0, 1 - label if index in self.swap else label] = 0.9
        return [torch.cat((boxes, scores), -1)] if self.joined else [scores, boxes]

    def decode(self, outputs: Sequence[Tensor], input_size: tuple[int, int]) -> Candidates:
        boxes, scores = (outputs[0][..., :4], outputs[0][..., 4:]) if self.joined else (outputs[1], outputs[0])
        return Candidates(boxes, scores)

    def __call__(self, images: Tensor) -> Candidates:
        return self.decode(self.outputs(images), (SIZE, SIZE))


def report(joined: bool, **faults: Any) -> DropReport:
    loader = EvalLoader(Squares(), Preprocess(SIZE, SIZE), 4)
    return compare(
        Oracle(joined),  # type: ignore[arg-type]
        Oracle(joined, **faults),  # type: ignore[arg-type]
        JOINED if joined else APART,
        loader,
        THRESHOLDS,
        metric="AP50",
    )


@pytest.mark.parametrize("joined", [True, False])
def test_spoilt_boxes_are_laid_on_the_boxes(joined: bool) -> None:
    found = report(joined, shift=20.0)
    parts = {p.part: p for p in found.parts}
    assert found.points["AP50"] == pytest.approx(100)
    assert found.drop == found.points["AP50"]
    assert parts["boxes"].alone == found.points == parts["boxes"].recovers
    assert parts["classes"].alone == parts["classes"].recovers == dict.fromkeys(found.points, 0.0)
    assert found.parts[0].part == "boxes"
    assert parts["boxes"].output == ("output" if joined else "boxes")
    assert found.moved["anchors"] == 6
    assert found.moved["mean_score_change"] == 0
    assert found.moved["mean_box_iou"] == pytest.approx(10 * 14 / (2 * 30 * 34 - 10 * 14), rel=1e-5)


@pytest.mark.parametrize("joined", [True, False])
def test_spoilt_scores_are_laid_on_the_classes_and_the_class_that_lost_is_named(joined: bool) -> None:
    found = report(joined, swap=(0, 2))
    parts = {p.part: p for p in found.parts}
    assert parts["boxes"].alone["AP50"] == 0
    assert parts["classes"].alone == found.points
    assert next(iter(found.per_class)) == "a"
    assert found.per_class["a"]["float"] == pytest.approx(1)
    assert found.moved["mean_box_iou"] == pytest.approx(1)
    assert found.moved["mean_score_change"] == pytest.approx(-0.9 * 2 / 6)


def test_boxes_that_rot_slowly_show_in_ap_while_ap50_looks_fine() -> None:
    found = report(True, shift=3.0)
    assert found.points["AP50"] == 0
    assert found.points["AP"] > 10


def test_float_and_int8_score_what_the_evaluation_scores() -> None:
    found = report(True, shift=3.0, swap=(1,))
    for predictor, metrics in (
        (Oracle(True), found.floating),
        (Oracle(True, shift=3.0, swap=(1,)), found.quantized),
    ):
        plain = evaluate(predictor, Squares(), Preprocess(SIZE, SIZE), THRESHOLDS)
        assert plain.metrics == metrics
        assert plain.dataset_sha256 == found.dataset_sha256
    document = json.loads(json.dumps(found.to_dict()))
    assert document["format"] == "stdet.drop/2"
    assert document["thresholds"] == {"confidence": 0.01, "nms_iou": 0.65, "max_detections": None}


def test_a_verdict_is_within_the_budget_up_to_the_budget_itself_and_says_so_in_the_file() -> None:
    found = report(True, swap=(0,))
    lost = found.points["AP50"]
    assert lost > 0
    assert Verdict(found, {"part": "classes"}, lost).within_budget
    over = Verdict(found, {"part": "classes"}, lost - 1e-3)
    assert not over.within_budget
    assert over.in_words.startswith(f"{lost:.2f} points of AP50 against float (1.0000 to ")
    assert over.in_short() == {
        "metric": "AP50",
        "max_drop": lost - 1e-3,
        "within_budget": False,
        "dataset_sha256": found.dataset_sha256,
        "thresholds": {"confidence": 0.01, "nms_iou": 0.65, "max_detections": None},
        "float": found.floating["AP50"],
        "int8": found.quantized["AP50"],
        "chance_points": dataclasses.asdict(found.chance["AP50"]),
    }
    assert f"another draw of images might say {found.chance['AP50']}" in over.in_words
    assert over.to_dict() == found.to_dict() | {
        "worst": {"part": "classes"}, "max_drop": lost - 1e-3, "within_budget": False,
    }  # fmt: skip
