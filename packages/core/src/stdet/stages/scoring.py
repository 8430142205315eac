"""Scoring as the config says it, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Callable

from stdet.artifacts import ModelFile, sha256_file
from stdet.data.workers import never
from stdet.evaluation import coco
from stdet.evaluation.predictors import Predictor
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.target import HOST
from stdet.stages.run import Run
from stdet.structures import DetectorSpec


def score(
    run: Run,
    predictor: Predictor,
    spec: DetectorSpec,
    dataset: DetectionDataset,
    label: str,
    source: ModelFile | None = None,
    place: str = HOST,
    stop: Callable[[], bool] = never,
    look: coco.Look | None = None,
) -> coco.EvaluationReport:
    """`coco.evaluate` with the thresholds and batches of the config.

    Args:
        label: what the progress bar calls the images.
        source: the model file, for the report.
        place: where it runs, for the report.
        stop: whether to go no further.
        look: is shown the detections, see `coco.evaluate`.
    """
    config = run.builder.config
    about = {"file": source.path.name, "sha256": sha256_file(source.path)} if source else {}
    if place != HOST:
        about["place"] = place
    return coco.evaluate(
        predictor,
        dataset,
        spec.preprocess,
        run.builder.thresholds(),
        iou_eval_thresh=config.postprocessing.IoU_eval_thresh,
        scorer=config.evaluation.scorer,
        batch_size=config.training.batch_size,
        num_workers=config.dataset.num_workers,
        progress=lambda done, total: run.reporter.progress(f"evaluate ({label})", done, total),
        model=about,
        stop=stop,
        look=look,
    )
