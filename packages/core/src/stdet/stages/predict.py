"""Detections in images that have no annotations."""

from __future__ import annotations

from stdet.artifacts import write_json
from stdet.errors import ConfigError, DataError
from stdet.evaluation.plots import draw_detections, save_image
from stdet.evaluation.postprocess import detect
from stdet.runs.results import Predicted
from stdet.stages.models import model_file, predictor_of
from stdet.stages.run import Run


def predict(run: Run) -> None:
    """Detections in every image of `dataset.prediction_path`: a picture each, and `predictions.json`."""
    config = run.builder.config
    folder = config.dataset.prediction_path
    if folder is None:
        raise ConfigError("prediction needs images", "set dataset.prediction_path to a folder")
    predictor, spec = predictor_of(run, model_file(run))
    dataset = run.builder.image_folder("prediction", folder, spec=spec)
    if not len(dataset):
        raise DataError(f"{folder} holds no image")
    thresholds = run.builder.shown_thresholds()
    entries = []
    for index in range(len(dataset)):
        image = dataset.read_image(index)
        found = detect(predictor, image, spec.preprocess, thresholds)
        name = dataset.annotation(index).path
        picture = run.folder / "predictions" / f"{name.stem if name else index}_predict.jpg"
        save_image(picture, draw_detections(image, found, spec.class_names))
        entries.append(
            {
                "image": str(name),
                "picture": str(picture),
                "detections": [
                    {"class": spec.class_names[label], "score": float(score), "box_xyxy": [float(v) for v in box]}
                    for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
                ],
            }
        )
        run.reporter.progress("predict", index + 1, len(dataset))
    document = {"format": "stdet.predictions/2", "thresholds": thresholds.to_dict(), "images": entries}
    write_json(run.folder / "predictions" / "predictions.json", document)
    run.record.add(Predicted(len(entries), run.folder / "predictions", thresholds))
