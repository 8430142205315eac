"""Annotations of a whole data set in a few NumPy arrays: small, shared between processes without copying."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stdet.data.image_io import image_size, read_image, verify_image
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset, Fault
from stdet.structures import Annotation

log = logging.getLogger(__name__)

MAX_AREA = 1e12
"""Areas above this, in pixels^2, are no areas of a picture."""


@dataclass(frozen=True)
class Objects:
    """Annotated objects, row by row.

    Attributes:
        boxes: float32 (N, 4), xyxy, pixels, inside the image and with an area.
        labels: int64 (N,).
        ignore: bool (N,).
        areas: float32 (N,), pixels^2.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    areas: np.ndarray

    def __getitem__(self, rows: slice | np.ndarray) -> Objects:
        return Objects(self.boxes[rows], self.labels[rows], self.ignore[rows], self.areas[rows])

    @classmethod
    def join(cls, parts: Sequence[Objects]) -> Objects:
        """The rows of all `parts`, in order."""
        parts = [cls.none(), *parts]
        columns = zip(*((o.boxes, o.labels, o.ignore, o.areas) for o in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    @classmethod
    def none(cls) -> Objects:
        """No row."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, np.float32))


class PackedDataset(DetectionDataset):
    """Images of one folder with packed annotations; what the file readers produce."""

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        names: Sequence[str],
        ids: np.ndarray,
        sizes: np.ndarray,
        counts: np.ndarray,
        objects: Objects,
        *,
        keep_alpha: bool = False,
    ) -> None:
        """Args:
        names: of the images, inside `folder`.
        ids: int64 (I,), image ids.
        sizes: int32 (I, 2), (height, width) in pixels.
        counts: int64 (I,), how many rows of `objects` belong to each image, in order.
        keep_alpha: whether images are wanted as RGBA.
        """
        self.class_names = tuple(class_names)
        self._folder = folder
        encoded = [os.fsencode(name) for name in names]  # file names need not be UTF-8
        self._names = np.frombuffer(b"".join(encoded), np.uint8)
        self._name_starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._ids, self._sizes = ids, sizes
        self._starts = np.cumsum([0, *counts], dtype=np.int64)
        self._objects = objects
        self._keep_alpha = keep_alpha

    def __len__(self) -> int:
        return len(self._ids)

    def annotation(self, index: int) -> Annotation:
        index = range(len(self))[index]
        own = self._objects[self._starts[index] : self._starts[index + 1]]
        height, width = self._sizes[index].tolist()
        image_id = int(self._ids[index])
        return Annotation(image_id, self._path(index), height, width, own.boxes, own.labels, own.ignore, own.areas)

    def read_image(self, index: int) -> np.ndarray:
        return self.read_reduced(index, 1)

    def read_reduced(self, index: int, factor: int) -> np.ndarray:
        path = self._path(index)
        image = read_image(path, self._keep_alpha, factor)
        size, declared = image.shape[:2], tuple(self._sizes[index].tolist())
        if size not in (declared, tuple(-(-side // factor) for side in declared)):
            raise _wrong_size(path, image_size(path), declared)
        return image

    def _path(self, index: int) -> Path:
        name = self._names[self._name_starts[index] : self._name_starts[index + 1]]
        return self._folder / os.fsdecode(name.tobytes())


def _wrong_size(path: Path, found: tuple[int, int], declared: tuple[int, int]) -> DataError:
    return DataError(
        f"{path} is {found[1]} x {found[0]}, but its annotation says {declared[1]} x {declared[0]}",
        "correct the annotation, or the image",
    )


def clean_boxes(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (N, 4) boxes clipped to their images, and bool (N,): which of them are numbers and have an area then.

    Args:
        boxes: float (N, 4), xyxy, pixels.
        sizes: int (N, 2) or (2,), (height, width) of each box's image.
    """
    limits = np.broadcast_to(sizes, (len(boxes), 2))[:, [1, 0, 1, 0]]
    clipped = np.clip(boxes, 0, limits).astype(np.float32)
    usable = np.isfinite(boxes).all(1) & (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    return clipped, usable


class Complaints:
    """Collects what is wrong with a data set, and ends in an error or, when the user chose to skip, in one warning.

    With `request.on_fault`, hands it over as it comes, and ends in nothing.
    """

    def __init__(self, request: DatasetRequest) -> None:
        self.sink = request.on_fault
        self.skip = request.on_bad_data == "skip" and self.sink is None
        self._split = request.split
        self._found: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, kind: str, where: str, count: int = 1) -> None:
        """Note `count` faults of a `kind` (a plural noun), the first of them at `where`."""
        if self.sink is not None:
            self.sink(Fault(kind, where, count))
            return
        self._found[kind] += count
        self._examples.setdefault(kind, where)

    def settle(self) -> None:
        """Raises:
        DataError: something was found and the config doesn't say to skip it.
        """
        if not self._found:
            return
        text = "; ".join(f"{count} {kind} (first: {self._examples[kind]})" for kind, count in self._found.items())
        if not self.skip:
            raise DataError(f"{self._split} set: {text}", "mend the data, or set dataset.on_bad_data: skip")
        log.warning("%s set: left out %s", self._split, text)


def is_inside(name: str) -> bool:
    """Whether a path from an annotation file stays within the folder it is relative to.

    Judged by the text alone: a link in the user's folder may point anywhere, an annotation file may not.
    """
    path = Path(name)
    return not path.anchor and ".." not in path.parts


def usable_image(folder: Path, name: str, size: tuple[int, int] | None, complaints: Complaints) -> bool:
    """Whether the image is there; when bad data is to be skipped, also whether it is whole and of its declared `size`
    (height, width). Complains if not.

    So what `skip` leaves out is known before the first epoch, and every process leaves out the same.

    Raises:
        DataError: the name leaves the folder.
    """
    if not is_inside(name):
        raise DataError(f"the image name {name!r} leaves the images folder {folder}", "mend the annotation file")
    path = folder / name
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises on names that are too long
        complaints.add("missing images", str(path))
        return complaints.sink is not None and size is not None
    if complaints.skip:
        try:
            found = verify_image(path)
            if size is not None and found != size:
                raise _wrong_size(path, found, size)
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


def note_other_classes(split: str, count: int) -> None:
    """Say how many objects a class list leaves out: that is how a person-only training works, so it is no fault."""
    if count:
        log.info("%s set: %d objects of classes that dataset.class_names doesn't name are left out", split, count)
