"""Detections in images that have no annotations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from stdet.artifacts import write_json
from stdet.errors import ConfigError, DataError
from stdet.evaluation.plots import draw_detections, save_image
from stdet.evaluation.postprocess import detect
from stdet.runs.results import Predicted
from stdet.stages.models import model_file, place_of, predictor_of
from stdet.stages.run import Run


def predict(run: Run) -> None:
    """Detections in every image of `dataset.prediction_path`: a picture each, and `predictions.json`.

    Raises:
        ConfigError: `dataset.prediction_path` isn't set.
        DataError: it holds no image.
    """
    config = run.builder.config
    folder = config.dataset.prediction_path
    if folder is None:
        raise ConfigError("prediction needs images", "set dataset.prediction_path to a folder")
    source = model_file(run)
    predictor, spec = predictor_of(run, source, place_of(run, source, config.prediction.target))
    dataset = run.builder.image_folder("prediction", folder, spec=spec)
    if not len(dataset):
        raise DataError(f"{folder} holds no image")
    thresholds = run.builder.shown_thresholds()
    entries: list[dict[str, Any]] = []
    paths = [dataset.annotation(index).path for index in range(len(dataset))]
    pictures = picture_names([path.name if path else str(index) for index, path in enumerate(paths)])
    for index in range(len(dataset)):
        image = dataset.read_image(index)
        found = detect(predictor, image, spec.preprocess, thresholds)
        picture = run.folder / "predictions" / pictures[index]
        save_image(picture, draw_detections(image, found, spec.class_names))
        entries.append(
            {
                "image": str(paths[index]),
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


def picture_names(names: list[str]) -> list[str]:
    """The picture of each image: by its name without the suffix, and with it where two images would share a picture."""
    stems = [Path(name).stem for name in names]
    shared = {stem for stem, times in Counter(stems).items() if times > 1}
    found: list[str] = []
    taken = set(stems) - shared
    for stem, name in zip(stems, names, strict=True):
        picture, more = stem if stem not in shared else name, 0
        while stem in shared and picture in taken:
            more += 1
            picture = f"{name}_{more}"
        taken.add(picture)
        found.append(f"{picture}_predict.jpg")
    return found
