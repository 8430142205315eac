"""Detections in images that have no annotations, in videos and before a camera."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch

from stdet.data.frames import Frame, Source, ahead, open_source
from stdet.data.preprocess import Geometry, normalize, prepare
from stdet.errors import ConfigError
from stdet.evaluation.outputs import OUTPUTS, Video, save_picture
from stdet.evaluation.plots import draw_detections
from stdet.evaluation.postprocess import in_image, select
from stdet.evaluation.predictors import Predictor
from stdet.runs.results import Predicted
from stdet.stages.models import model_file, place_of, predictor_of
from stdet.stages.run import Run
from stdet.structures import Detections, DetectorSpec, Thresholds


@dataclass(frozen=True)
class _Ready:
    """A frame, its network input (uint8), and the way back to its pixels."""

    frame: Frame
    pixels: np.ndarray
    geometry: Geometry


def predict(run: Run) -> None:
    """Detections in all that `dataset.prediction_path` names, in the forms of `prediction.outputs`.

    Reading and drawing go on beside the model. Ctrl-C ends a camera, and what it saw is kept.

    Raises:
        ConfigError: `dataset.prediction_path` isn't set.
        DataError: it holds nothing that can be looked at.
    """
    config = run.builder.config
    path = config.dataset.prediction_path
    if path is None:
        raise ConfigError(
            "prediction needs images", "set dataset.prediction_path to a folder, an image, a video or a camera"
        )
    model = model_file(run)
    predictor, spec = predictor_of(run, model, place_of(run, model, config.prediction.target))
    source = open_source(path, lambda: run.builder.image_folder("prediction", path, spec=spec))
    thresholds, folder = run.builder.shown_thresholds(), run.folder / "predictions"
    written = [
        OUTPUTS[name](folder, spec.class_names, thresholds) for name in config.prediction.outputs if name in OUTPUTS
    ]
    pictures = _Pictures(run, source, folder, spec)
    size = 1 if source.kind == "camera" else config.training.batch_size
    done = 0
    with ThreadPoolExecutor(source.threads) as reading, ThreadPoolExecutor(1) as drawing:
        read = ahead(
            lambda index: _ready(source, spec, index), source.indices(config.prediction.max_frames), reading, 2 * size
        )
        frames = (ready for ready in takewhile(lambda ready: ready is not None, read) if ready is not None)
        found = _detected(predictor, spec, thresholds, frames, size)
        try:
            for frame, detections, picture in ahead(pictures.draw, found, drawing, 2 * size):
                for output in written:
                    output.add(frame, detections, picture)
                done += 1
                run.reporter.progress("predict", done, source.total)
        except KeyboardInterrupt:
            if source.kind != "camera":
                raise
    for output in written:
        output.close()
    pictures.close()
    run.record.add(Predicted(done, folder, thresholds))


def _ready(source: Source, spec: DetectorSpec, index: int) -> _Ready | None:
    frame = source.read(index)
    return None if frame is None else _Ready(frame, *prepare(frame.image, spec.preprocess))


def _detected(
    predictor: Predictor, spec: DetectorSpec, thresholds: Thresholds, frames: Iterable[_Ready], size: int
) -> Iterator[tuple[Frame, Detections]]:
    """Each frame with its detections, in its pixels; `size` frames at a time."""
    for batch in _batches(frames, size):
        images = normalize(torch.from_numpy(np.stack([ready.pixels for ready in batch])), spec.preprocess)
        for ready, found in zip(batch, select(predictor(images), thresholds), strict=True):
            yield ready.frame, in_image(found, ready.geometry, ready.frame.image)


class _Pictures:
    """Draws detections: a picture for each image, one video for all frames; nothing unless `pictures` are asked for."""

    def __init__(self, run: Run, source: Source, folder: Path, spec: DetectorSpec) -> None:
        self._wanted = "pictures" in run.builder.config.prediction.outputs
        self._folder, self._classes = folder, spec.class_names
        path = run.builder.config.dataset.prediction_path
        stem = f"camera_{path}" if source.kind == "camera" else path.stem if path else ""
        self._film = folder / f"{stem}_predict.mp4" if source.kind != "images" else None
        self._video = Video(self._film, source.fps) if self._film and self._wanted else None
        self._names = self._names_of(path) if source.kind == "images" else {}

    def _names_of(self, path: Path | None) -> dict[str, str]:
        """The picture of each image of a folder, by the image's name."""
        assert path is not None
        names = sorted(p.name for p in path.iterdir()) if path.is_dir() else [path.name]
        return dict(zip(names, picture_names(names), strict=True))

    def draw(self, item: tuple[Frame, Detections]) -> tuple[Frame, Detections, Path | None]:
        frame, found = item
        if not self._wanted:
            return frame, found, None
        path = self._film or self._folder / self._names[frame.name]
        save_picture(path, draw_detections(frame.image, found, self._classes), self._video)
        return frame, found, path

    def close(self) -> None:
        if self._video is not None:
            self._video.close()


def _batches(frames: Iterable[_Ready], size: int) -> Iterator[list[_Ready]]:
    batch: list[_Ready] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


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
