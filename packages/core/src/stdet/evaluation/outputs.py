"""Detections as files: our JSON, COCO's JSON, CSV and JSON lines, pictures and videos."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import cv2
import numpy as np

from stdet.artifacts import write_json
from stdet.data.frames import Frame
from stdet.errors import ArtifactError
from stdet.evaluation.plots import save_image
from stdet.structures import Detections, Thresholds


class Output(Protocol):
    """Is given each frame with its detections, in order, then told that there are no more."""

    def add(self, frame: Frame, found: Detections, picture: Path | None) -> None: ...

    def close(self) -> None: ...


def _boxes(found: Detections, classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"class": classes[label], "score": float(score), "box_xyxy": [float(v) for v in box]}
        for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
    ]


def _entry(frame: Frame, found: Detections, picture: Path | None, classes: Sequence[str]) -> dict[str, Any]:
    number = {} if frame.number is None else {"frame": frame.number}
    shown = None if picture is None else str(picture)
    return {"image": str(frame.path or frame.name), **number, "picture": shown, "detections": _boxes(found, classes)}


class JsonOutput:
    """`predictions.json`: all images with their detections, boxes in pixels of the image."""

    def __init__(self, folder: Path, classes: Sequence[str], thresholds: Thresholds) -> None:
        self._path, self._classes, self._thresholds = folder / "predictions.json", classes, thresholds
        self._entries: list[dict[str, Any]] = []

    def add(self, frame: Frame, found: Detections, picture: Path | None) -> None:
        self._entries.append(_entry(frame, found, picture, self._classes))

    def close(self) -> None:
        thresholds = self._thresholds.to_dict()
        write_json(self._path, {"format": "stdet.predictions/2", "thresholds": thresholds, "images": self._entries})


class CocoOutput:
    """`predictions_coco.json`: a COCO data set whose annotations have a `score`; image and category ids count from 1."""

    def __init__(self, folder: Path, classes: Sequence[str], thresholds: Thresholds) -> None:
        self._path = folder / "predictions_coco.json"
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories = [{"id": index, "name": name} for index, name in enumerate(classes, 1)]

    def add(self, frame: Frame, found: Detections, picture: Path | None) -> None:
        height, width = frame.image.shape[:2]
        name = frame.name if frame.number is None else f"{frame.name}#{frame.number}"
        self._images.append({"id": len(self._images) + 1, "file_name": name, "height": height, "width": width})
        for (x1, y1, x2, y2), score, label in zip(found.boxes.tolist(), found.scores, found.labels, strict=True):
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": len(self._images),
                    "category_id": int(label) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": float(score),
                }
            )

    def close(self) -> None:
        document = {"images": self._images, "categories": self._categories, "annotations": self._annotations}
        write_json(self._path, document)


class _Stream:
    """A text file that grows with each frame, so that a stop loses nothing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file: TextIO = path.open("w", encoding="utf-8", newline="")

    def _write(self, write: Callable[[], object]) -> None:
        try:
            write()
            self._file.flush()
        except OSError as error:
            raise ArtifactError(f"cannot write {self._path}: {error.strerror or error}", "free space") from error

    def close(self) -> None:
        self._file.close()


class JsonLinesOutput(_Stream):
    """`predictions.jsonl`: an image a line, as in `predictions.json`."""

    def __init__(self, folder: Path, classes: Sequence[str], thresholds: Thresholds) -> None:
        super().__init__(folder / "predictions.jsonl")
        self._classes = classes

    def add(self, frame: Frame, found: Detections, picture: Path | None) -> None:
        line = json.dumps(_entry(frame, found, picture, self._classes), ensure_ascii=False)
        self._write(lambda: self._file.write(line + "\n"))


class CsvOutput(_Stream):
    """`predictions.csv`: a detection a line; boxes in pixels of the image."""

    def __init__(self, folder: Path, classes: Sequence[str], thresholds: Thresholds) -> None:
        super().__init__(folder / "predictions.csv")
        self._classes, self._rows = classes, csv.writer(self._file, lineterminator="\n")
        self._write(lambda: self._rows.writerow(["image", "frame", "class", "score", "x1", "y1", "x2", "y2"]))

    def add(self, frame: Frame, found: Detections, picture: Path | None) -> None:
        where = [str(frame.path or frame.name), "" if frame.number is None else frame.number]
        rows = [[*where, box["class"], box["score"], *box["box_xyxy"]] for box in _boxes(found, self._classes)]
        self._write(lambda: self._rows.writerows(rows))


OUTPUTS: dict[str, Callable[[Path, Sequence[str], Thresholds], Output]] = {
    "json": JsonOutput,
    "coco": CocoOutput,
    "csv": CsvOutput,
    "jsonl": JsonLinesOutput,
}
"""The values of `prediction.outputs` that write text; `pictures` is drawn."""


class Video:
    """Pictures as an MP4 file, which has its name once it is whole."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._unfinished = path.with_name(f"{path.stem}.unfinished{path.suffix}")
        self._writer: cv2.VideoWriter | None = None

    def add(self, picture: np.ndarray) -> None:
        """A uint8 (H, W, 3) RGB picture, of the size of the first one.

        Raises:
            ArtifactError: OpenCV can't write the file.
        """
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            size = (picture.shape[1], picture.shape[0])
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._unfinished), codec, self._fps, size)
            if not self._writer.isOpened():
                raise ArtifactError(f"OpenCV can't write {self._path}", "leave pictures out of prediction.outputs")
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()
            self._unfinished.replace(self._path)


def save_picture(path: Path, picture: np.ndarray, video: Video | None) -> None:
    """Into `video`, or where there is none as a file of its own."""
    if video is not None:
        video.add(picture)
    else:
        save_image(path, picture)
