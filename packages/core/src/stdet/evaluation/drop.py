"""What quantization costs a detector, and which part of its answers pays: one code, one set of images, one threshold."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stdet.boxes import aligned_iou
from stdet.data.loader import EvalLoader
from stdet.errors import DataError
from stdet.evaluation.chance import Interval, difference
from stdet.evaluation.coco import Score, chooser, detections, score
from stdet.evaluation.predictors import OnnxPredictor
from stdet.interfaces.detector import Candidates, OutputPart
from stdet.interfaces.target import Scorer
from stdet.structures import Thresholds

FORMAT = "stdet.drop/2"
NOTHING_TO_FIND = "the evaluation images show no object, so nothing can be scored on them"
CONFIDENT = 0.25
"""Anchors from this float score on tell how far int8 moves boxes and scores."""


@dataclass(frozen=True)
class PartDrop:
    """What one part of the outputs costs; all in points (hundredths) by metric.

    Attributes:
        part: `boxes`, `classes`, ... as the detector names it.
        output: name of the ONNX output it lies in.
        alone: what is lost when only this part is int8 and the others are float.
        recovers: what is won back when only this part is float and the others are int8.
    """

    part: str
    output: str
    alone: dict[str, float]
    recovers: dict[str, float]


@dataclass(frozen=True)
class DropReport:
    """Float and int8 side by side.

    Attributes:
        metric: which one the budget is for, `AP50` or `AP`: the mean over all classes.
        floating, quantized: COCO's metrics, 0..1.
        points: float minus int8 by metric, in points (hundredths); positive is a loss.
        chance: how far `points` reach when the images are drawn anew, by metric; empty with one image.
        parts: the loss by what the outputs mean, worst first.
        per_class: class to `float`, `int8` (of `metric`, 0..1) and `points`, worst first; classes with objects only.
        moved: over anchors with a float score of at least `CONFIDENT`: how many, the mean IoU of the float and the int8
            box, and the mean change of the score.
        thresholds, images, dataset_sha256, seconds: as in `EvaluationReport`.
    """

    metric: str
    floating: dict[str, float | None]
    quantized: dict[str, float | None]
    points: dict[str, float]
    chance: dict[str, Interval]
    parts: list[PartDrop]
    per_class: dict[str, dict[str, float]]
    moved: dict[str, float | int | None]
    thresholds: Thresholds
    images: int
    dataset_sha256: str
    seconds: float

    @property
    def drop(self) -> float:
        """Points of `metric` that int8 loses; negative when it wins."""
        return self.points[self.metric]

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class Verdict:
    """Whether int8 keeps to a budget.

    Attributes:
        worst: what lost most, in words: the part of the outputs, the class, and what the target found.
        max_drop: the most points of `report.metric` that it may lose.
    """

    report: DropReport
    worst: dict[str, str]
    max_drop: float

    @property
    def within_budget(self) -> bool:
        """A drop of exactly `max_drop` is."""
        return self.report.drop <= self.max_drop

    @property
    def scores(self) -> tuple[float, float]:
        """`report.metric` of float and of int8, 0..1."""
        floating, int8 = (found[self.report.metric] for found in (self.report.floating, self.report.quantized))
        assert floating is not None  # `compare` refuses images that show nothing
        assert int8 is not None
        return floating, int8

    @property
    def in_words(self) -> str:
        """How much is lost, between which scores, and how far chance goes."""
        floating, int8 = self.scores
        chance = self.report.chance.get(self.report.metric)
        reach = f"; another draw of images might say {chance}" if chance else ""
        return (
            f"{self.report.drop:.2f} points of {self.report.metric} against float ({floating:.4f} to {int8:.4f}{reach})"
        )

    def to_dict(self) -> dict[str, Any]:
        """The whole report."""
        budget = {"worst": self.worst, "max_drop": self.max_drop, "within_budget": self.within_budget}
        return self.report.to_dict() | budget

    def in_short(self) -> dict[str, Any]:
        """What the metadata of the int8 file says."""
        whole, (floating, int8) = self.to_dict(), self.scores
        kept = {key: whole[key] for key in ("metric", "max_drop", "within_budget", "dataset_sha256", "thresholds")}
        chance = whole["chance"].get(self.report.metric)
        return kept | {"float": floating, "int8": int8, "chance_points": chance}


def compare(
    floating: OnnxPredictor,
    quantized: OnnxPredictor,
    parts: Sequence[tuple[OutputPart, str]],
    loader: EvalLoader,
    thresholds: Thresholds,
    *,
    metric: str,
    scorer: Scorer = "stdet",
    progress: Callable[[int, int | None], None] | None = None,
) -> DropReport:
    """Score float, int8 and their mixtures in one pass over the images; both models run once an image.

    A mixture takes some parts of the outputs from one model and the rest from the other, before decoding: int8 boxes
    with float scores show what the boxes alone cost.

    Args:
        parts: of the outputs, each with the name of its output; they cover every column.
        loader: the images, all of them in this process.
        thresholds: which candidates are detections, the same for all.
        scorer: who counts, see `coco.score`.

    Raises:
        DataError: the images show no object.
    """
    started = time.perf_counter()
    mix = _Mixer(floating, quantized, [part for part, _ in parts])
    found = detections(mix, loader, chooser(thresholds), progress)
    dataset = loader.dataset
    scores = {variant: score(dataset, found[variant], scorer=scorer) for variant in mix.variants}
    names = [part.name for part, _ in parts]
    real, int8 = scores[_key(())], scores[_key(names)]
    if real.metrics[metric] is None:
        raise DataError(NOTHING_TO_FIND, "give evaluation images with annotated objects")
    part_drops = [
        PartDrop(
            part.name,
            output,
            _points(real, scores[_key([part.name])]),
            _points(scores[_key([n for n in names if n != part.name])], int8),
        )
        for part, output in parts
    ]
    per_class = _class_points(real, int8, metric)
    return DropReport(
        metric,
        real.metrics,
        int8.metrics,
        _points(real, int8),
        difference(real.matches, int8.matches, len(dataset)),
        sorted(part_drops, key=lambda p: -p.alone.get("AP", 0.0)),
        per_class,
        mix.moved(),
        thresholds,
        len(dataset),
        real.dataset_sha256,
        time.perf_counter() - started,
    )


class _Mixer:
    """Candidates of every mixture of the two models' outputs, and how far boxes and scores move between the two."""

    def __init__(self, floating: OnnxPredictor, quantized: OnnxPredictor, parts: Sequence[OutputPart]) -> None:
        self.floating, self.quantized, self.parts = floating, quantized, parts
        names = [part.name for part in parts]
        without = ([n for n in names if n != name] for name in names)
        wanted = [(), names, *([name] for name in names), *without]
        self.variants = {_key(chosen): frozenset(chosen) for chosen in wanted}
        self.anchors = 0
        self.iou = self.shift = 0.0

    def __call__(self, images: Tensor) -> Mapping[str, Candidates]:
        size = (images.shape[2], images.shape[3])
        real, int8 = self.floating.outputs(images), self.quantized.outputs(images)
        made = {
            variant: self.floating.decode(self.mixture(real, int8, chosen), size)
            for variant, chosen in self.variants.items()
        }
        self.watch(made[_key(())], made[_key([part.name for part in self.parts])])
        return made

    def mixture(self, real: Sequence[Tensor], int8: Sequence[Tensor], chosen: frozenset[str]) -> list[Tensor]:
        """`real` with the columns of the `chosen` parts from `int8`."""
        outputs = [output.clone() for output in real]
        for part in self.parts:
            if part.name in chosen:
                outputs[part.output][..., part.columns] = int8[part.output][..., part.columns]
        return outputs

    def watch(self, real: Candidates, int8: Candidates) -> None:
        best, label = real.scores.max(-1)
        sure = best >= CONFIDENT
        self.anchors += int(sure.sum())
        changed = int8.scores.gather(-1, label[..., None])[..., 0]
        self.shift += float((changed - best)[sure].sum())
        self.iou += float(aligned_iou(real.boxes[sure], int8.boxes[sure]).nan_to_num().sum())

    def moved(self) -> dict[str, float | int | None]:
        count = self.anchors
        return {
            "anchors": count,
            "mean_box_iou": self.iou / count if count else None,
            "mean_score_change": self.shift / count if count else None,
        }


def _key(chosen: Sequence[str]) -> str:
    return "+".join(sorted(chosen))


def _points(better: Score, worse: Score) -> dict[str, float]:
    """The difference in hundredths, for each metric that has a value."""
    return {
        name: round(100 * (better.metrics[name] - worse.metrics[name]), 3)  # type: ignore[operator]
        for name in ("AP", "AP50", "AP75")
        if better.metrics[name] is not None and worse.metrics[name] is not None
    }


def _class_points(real: Score, int8: Score, metric: str) -> dict[str, dict[str, float]]:
    rows = {}
    for name, values in real.per_class.items():
        one, other = values[metric], int8.per_class[name][metric]
        if one is not None and other is not None:
            rows[name] = {"float": one, "int8": other, "points": round(100 * (one - other), 3)}
    return dict(sorted(rows.items(), key=lambda item: -item[1]["points"]))
