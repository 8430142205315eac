"""Annotations of a whole data set in a few NumPy arrays: small, shared between processes without copying."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stdet.data.image_io import read_image, verify_image
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset
from stdet.structures import Annotation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageRecord:
    """One image as a reader found it.

    Attributes:
        image_id: unique in the data set.
        name: path inside the images folder.
        height, width: pixels.
        boxes: float (N, 4) xyxy pixels, clipped, with area; labels, ignore, areas: (N,).
    """

    image_id: int
    name: str
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    areas: np.ndarray


class PackedDataset(DetectionDataset):
    """Images of one folder with packed annotations; what the file readers produce."""

    def __init__(self, folder: Path, class_names: Sequence[str], records: Sequence[ImageRecord]) -> None:
        self.class_names = tuple(class_names)
        self._folder = folder
        self._names = np.array([r.name for r in records], dtype=object if not records else None)
        self._ids = np.array([r.image_id for r in records], np.int64)
        self._sizes = np.array([(r.height, r.width) for r in records], np.int32).reshape(-1, 2)
        self._starts = np.cumsum([0, *(len(r.labels) for r in records)])
        self._boxes = _joined([r.boxes for r in records], np.float32).reshape(-1, 4)
        self._labels = _joined([r.labels for r in records], np.int64)
        self._ignore = _joined([r.ignore for r in records], np.bool_)
        self._areas = _joined([r.areas for r in records], np.float32)

    def __len__(self) -> int:
        return len(self._ids)

    def annotation(self, index: int) -> Annotation:
        own = slice(self._starts[index], self._starts[index + 1])
        height, width = self._sizes[index]
        return Annotation(
            int(self._ids[index]),
            self._folder / str(self._names[index]),
            int(height),
            int(width),
            self._boxes[own],
            self._labels[own],
            self._ignore[own],
            self._areas[own],
        )

    def read_image(self, index: int) -> np.ndarray:
        image = read_image(self._folder / str(self._names[index]))
        if image.shape[:2] != tuple(self._sizes[index]):
            declared, (height, width) = tuple(int(v) for v in self._sizes[index]), image.shape[:2]
            raise DataError(
                f"{self._folder / str(self._names[index])} is {width} x {height}, "
                f"but its annotation says {declared[1]} x {declared[0]}",
                "correct the annotation, or the image",
            )
        return image


def _joined(parts: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.asarray(p, dtype) for p in parts]) if parts else np.zeros(0, dtype)


def clean_boxes(boxes: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) xyxy clipped to the image, and bool (N,): which of them have an area afterwards and are numbers."""
    clipped = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, [width, height, width, height])
    usable = np.isfinite(boxes).all(1) & (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    return clipped.astype(np.float32), usable


class Complaints:
    """Collects what is wrong with a data set, and ends in an error or, when the user chose to skip, in one warning."""

    def __init__(self, request: DatasetRequest) -> None:
        self._skip = request.on_bad_data == "skip"
        self._split = request.split
        self._found: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, kind: str, where: str) -> None:
        """Note one `kind` of fault (a plural noun) at `where`."""
        self._found[kind] += 1
        self._examples.setdefault(kind, where)

    def settle(self) -> None:
        """Raises:
        DataError: something was found and the config doesn't say to skip it.
        """
        if not self._found:
            return
        text = "; ".join(f"{count} {kind} (first: {self._examples[kind]})" for kind, count in self._found.items())
        if not self._skip:
            raise DataError(f"{self._split} set: {text}", "mend the data, or set dataset.on_bad_data: skip")
        log.warning("%s set: left out %s", self._split, text)


def inside(folder: Path, name: str) -> bool:
    """Whether `name` is a path that stays within `folder`."""
    return (folder / name).resolve().is_relative_to(folder.resolve())


def usable_image(folder: Path, name: str, request: DatasetRequest, complaints: Complaints) -> bool:
    """Whether the image is there; when bad data is to be skipped, also whether it is whole. Complains if not."""
    if not inside(folder, name):
        raise DataError(f"the image name {name!r} leaves the images folder {folder}", "mend the annotation file")
    path = folder / name
    if not path.is_file():
        complaints.add("missing images", str(path))
        return False
    if request.on_bad_data == "skip":
        try:
            verify_image(path)
        except DataError as error:
            complaints.add("unreadable images", error.message)
            return False
    return True


def required_folder(path: Path | None, key: str) -> Path:
    """Raises:
    DataError: not given, or not a folder.
    """
    if path is None:
        raise DataError(f"dataset.{key} is not set", f"set dataset.{key} to the folder of the images")
    if not path.is_dir():
        raise DataError(f"dataset.{key}: no folder at {path}", "paths are relative to the folder you run stdet in")
    return path


def resolve_classes(wanted: Sequence[str] | None, found: Sequence[str], source: str) -> tuple[str, ...]:
    """The classes in label order: those the config names, which the annotations must know, else all that were found.

    Raises:
        DataError: the config names a class that the annotations don't have, or one twice.
    """
    if wanted is None:
        return tuple(found)
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise DataError(
            f"dataset.class_names has {', '.join(map(repr, unknown))}, but {source} has only: {', '.join(found) or 'none'}",
            "correct dataset.class_names, or leave it out to use all classes of the annotations",
        )
    if len(set(wanted)) < len(wanted):
        raise DataError("dataset.class_names names a class twice")
    return tuple(wanted)
