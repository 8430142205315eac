"""What a model scores on a data set: average precision by COCO's rules."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from torch import Tensor

from stdet.artifacts import write_json
from stdet.data.loader import EvalLoader
from stdet.data.preprocess import normalize
from stdet.data.workers import never
from stdet.errors import ArtifactError, DataError, ModelError
from stdet.evaluation.chance import ClassMatches
from stdet.evaluation.matching import IOU_THRESHOLDS, MAX_PER_CLASS
from stdet.evaluation.postprocess import select
from stdet.evaluation.precision import Judgement, judge
from stdet.evaluation.predictors import Predictor
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.detector import Candidates
from stdet.interfaces.target import Scorer
from stdet.nn.distributed import from_main, gathered, rank, world_size
from stdet.structures import Detections, Preprocess, Thresholds

FORMAT, OLD_FORMAT = "stdet.evaluation/2", "stdet.evaluation/1"
"""The old one spells `thresholds` otherwise."""

METRICS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""COCO's twelve numbers, in pycocotools' order."""


@dataclass(frozen=True)
class EvaluationReport:
    """What a model scores on a data set.

    Attributes:
        metrics: COCO's twelve numbers, and `AP@<t>` for another IoU threshold; 0..1, None where there is nothing to
            find (no object of that size).
        per_class: class name to its `AP` and `AP50`.
        images, ground_truths, detections: how many; ignored boxes aren't counted, nor are detections beyond the 100 best
            of an image and class, which COCO doesn't look at.
        thresholds: which candidates counted as detections.
        dataset_sha256: of the ground truth.
        seconds: wall time of prediction and scoring.
        model: `file` and `sha256` of the model file, when there is one, and `place` where it ran, if not on the host.
        curves: precision at recall 0, 0.01, …, 1 by `AP50` and `AP75`, the mean over the classes, whose mean in turn is
            the metric of that name; for `plot_precision_recall`.
        scorer: who counted.
        draws: by metric, what it is when images are drawn anew (`stdet.evaluation.chance.drawn`), 0..1, None for a draw
            without objects: what a later report is compared with. Empty where nobody asked, and with one image.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    images: int
    ground_truths: int
    detections: int
    thresholds: Thresholds
    dataset_sha256: str
    seconds: float
    model: dict[str, str] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    scorer: Scorer = "stdet"
    draws: dict[str, list[float | None]] = field(default_factory=dict)

    def scalars(self) -> dict[str, float]:
        """The metrics that have a value."""
        return {name: value for name, value in self.metrics.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}

    def save(self, path: Path) -> None:
        """Write the report as JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises:
        ArtifactError: missing, not JSON, or of another format.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot read the evaluation report {path}: {error}") from error
        if not isinstance(document, dict) or document.pop("format", None) not in (FORMAT, OLD_FORMAT):
            raise ArtifactError(f"{path} is not an evaluation report of format {FORMAT}")
        try:
            return cls(**document | {"thresholds": Thresholds.from_dict(document["thresholds"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"the evaluation report {path} is damaged: {error}") from error


Look = Callable[[Mapping[int, Detections], list[ClassMatches]], None]


def evaluate(
    predictor: Predictor,
    dataset: DetectionDataset,
    preprocess: Preprocess,
    thresholds: Thresholds,
    *,
    iou_eval_thresh: float = 0.5,
    scorer: Scorer = "stdet",
    batch_size: int = 8,
    num_workers: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
    model: Mapping[str, str] | None = None,
    stop: Callable[[], bool] = never,
    look: Look | None = None,
) -> EvaluationReport:
    """Run `predictor` over every image of `dataset`, images without boxes included, and score it.

    Several processes share the images, each image goes to one of them, and all return the same report.

    Args:
        thresholds: which candidates are scored; of a class the best 100 are at most, since COCO counts no more.
        iou_eval_thresh: IoU for one more average precision, reported as `AP@<t>` when COCO's numbers lack it.
        stop: whether to go no further.
        scorer: who counts, see `score`.
        look: is shown all detections, by image index, and what they are by class; in the main process.

    Raises:
        Interrupted: `stop` says so.
        DataError: there is nothing to evaluate on, see `check_scorable`, or an image can't be read.
        ModelError: the model scores another number of classes than `dataset` has.
    """
    check_scorable(dataset)
    started = time.perf_counter()
    mine = list(range(rank(), len(dataset), world_size()))
    loader = EvalLoader(dataset, preprocess, batch_size, num_workers, mine, stop)
    choose = chooser(thresholds)
    found = gathered(detections(lambda images: {"": predictor(images)}, loader, choose, progress)[""])

    def judged() -> Score:
        result = score(dataset, found, iou_eval_thresh, scorer)
        if look:
            look(found, result.matches)
        return result._replace(matches=[])

    scored = from_main(judged)
    return EvaluationReport(
        scored.metrics,
        scored.per_class,
        len(dataset),
        scored.ground_truths,
        sum(len(d) for d in found.values()),
        thresholds,
        scored.dataset_sha256,
        time.perf_counter() - started,
        dict(model or {}),
        scored.curves,
        scorer,
    )


def check_scorable(dataset: DetectionDataset, split: str = "evaluation") -> None:
    """Check that there is an object to find: without one no metric has a value.

    Args:
        split: what to call the set.

    Raises:
        DataError: no image, or no object that counts.
    """
    if not len(dataset):
        raise DataError(f"the {split} set holds no image", "check the test and val paths of the dataset section")
    ignored = 0
    for index in range(len(dataset)):
        ignore = dataset.annotation(index).ignore
        if not ignore.all():
            return
        ignored += len(ignore)
    marked = f", {ignored} that are marked {dataset.ignored}" if ignored else ""
    left_out = "".join(f"; {note}" for note in dataset.notes)
    raise DataError(
        f"the {split} set has nothing to score: {len(dataset)} images without an object that counts{marked}{left_out}",
        "give a set with annotated objects of the model's classes: without one no epoch is the best, and no model better",
    )


Chooser = Callable[[Candidates], list[Detections]]


def chooser(thresholds: Thresholds) -> Chooser:
    """`select` as an evaluation does it."""
    return partial(select, thresholds=thresholds, max_per_class=MAX_PER_CLASS)


def detections(
    predict: Callable[[Tensor], Mapping[str, Candidates]],
    loader: EvalLoader,
    choose: Chooser,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, dict[int, Detections]]:
    """Detections in image pixels by image index, for each of the variants that `predict` makes of a batch.

    Args:
        predict: takes normalized images, float32 (B, C, H, W).

    Raises:
        ModelError: the model scores another number of classes than the data set has.
    """
    found: dict[str, dict[int, Detections]] = defaultdict(dict)
    dataset, done = loader.dataset, 0
    for batch in loader:
        for variant, candidates in predict(normalize(batch.images, loader.preprocess)).items():
            classes = candidates.scores.shape[-1]
            if classes != len(dataset.class_names):
                raise ModelError(
                    f"the model scores {classes} classes, the data set has {len(dataset.class_names)}",
                    "give dataset.class_names all classes of the model, in its order",
                )
            for index, geometry, one in zip(batch.indices, batch.geometries, choose(candidates), strict=True):
                found[variant][index] = Detections(geometry.to_image(one.boxes), one.scores, one.labels)
        done += len(batch.indices)
        if progress:
            progress(done, len(loader.indices))
    return found


class Score(NamedTuple):
    """The parts of an `EvaluationReport` that follow from boxes alone; its attributes say what they are.

    Attributes:
        matches: what COCO's rules say of each detection, by class; see `stdet.evaluation.chance`.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    dataset_sha256: str
    ground_truths: int
    curves: dict[str, list[float]]
    matches: list[ClassMatches]


def score(
    dataset: DetectionDataset,
    found: Mapping[int, Detections],
    iou_eval_thresh: float = 0.5,
    scorer: Scorer = "stdet",
) -> Score:
    """Average precisions of detections (in image pixels, by image index).

    Args:
        scorer: who counts; the numbers are the same.
    """
    judged = _judge(scorer)(dataset, found, IOU_THRESHOLDS)
    average, recall = judged.average, judged.recall
    values = [average[..., 0], average[0, :, 0], average[5, :, 0], *(average[..., size] for size in (1, 2, 3))]
    values += [*(recall[..., 0, few] for few in (0, 1, 2)), *(recall[..., size, -1] for size in (1, 2, 3))]
    metrics = {name: _mean(value) for name, value in zip(METRICS, values, strict=True)}
    if not np.isclose(iou_eval_thresh, 0.5):
        other = _judge(scorer)(dataset, found, np.array([iou_eval_thresh]))
        metrics[f"AP@{iou_eval_thresh:g}"] = _mean(other.average[..., 0])
    per_class = {
        name: {"AP": _mean(average[:, k, 0]), "AP50": _mean(average[0, k, 0])}
        for k, name in enumerate(dataset.class_names)
    }
    known = judged.precision[:, :, np.isfinite(average[0, :, 0])]
    curves = {name: known[i].mean(-1).tolist() for name, i in (("AP50", 0), ("AP75", 5))} if known.size else {}
    count = sum(int((~dataset.annotation(index).ignore).sum()) for index in range(len(dataset)))
    return Score(metrics, per_class, ground_truth_sha256(dataset), count, curves, judged.matches)


def _judge(scorer: Scorer) -> Callable[[DetectionDataset, Mapping[int, Detections], np.ndarray], Judgement]:
    if scorer == "stdet":
        return judge
    from stdet.evaluation import by_pycocotools  # only for those who ask for it

    return by_pycocotools.judge


def ground_truth_sha256(dataset: DetectionDataset) -> str:
    """The hash that reports call `dataset_sha256`."""
    digest = hashlib.sha256("\0".join((dataset.ignored, *dataset.class_names)).encode())
    for index in range(len(dataset)):
        a = dataset.annotation(index)
        for part in (np.array([a.image_id, a.height, a.width], np.int64), a.boxes, a.labels, a.ignore, a.areas):
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _mean(values: np.ndarray) -> float | None:
    """Over whatever there is something to find of."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None
