"""Annotations of a whole data set in a few NumPy arrays: small, shared between processes without copying."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stdet.data.complaints import Complaints
from stdet.data.image_io import image_header, other_size, read_image
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset, Fault
from stdet.structures import Annotation
from stdet_datasets.annotation_cache import Entry

MAX_AREA = 1e12
"""Areas above this, in pixels^2, are no areas of a picture."""
MAX_OBJECTS = 10_000
"""Most objects that an image may have. Nobody annotated more by hand, and boxes are compared with each other."""

STICKING_OUT_PX = 1.0
"""Boxes may leave the image by so much without being told of: rounding, and pixels that are counted from 1."""


@dataclass(frozen=True)
class Objects:
    """Annotated objects, row by row.

    Attributes:
        boxes: float32 (N, 4), xyxy, pixels, inside the image and with an area.
        labels: int32 (N,).
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
    def none(cls) -> Objects:
        """No row."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(0, np.float32))


def pack(
    class_names: Sequence[str],
    names: Sequence[str],
    ids: np.ndarray,
    sizes: np.ndarray,
    owner: np.ndarray,
    objects: Objects,
    faults: Iterable[Fault] = (),
    notes: Iterable[Fault] = (),
) -> Entry:
    """The annotations of a data set, in the form that `PackedDataset` and the cache take.

    Args:
        names: of the images, inside their folder.
        ids: int64 (I,), image ids.
        sizes: int32 (I, 2), (height, width) in pixels.
        owner: int64 (N,), row of the image that each object belongs to; any order.
        faults: what was found wrong, to be told on every open.
        notes: what was left out or changed without being wrong, to be told likewise.
    """
    counts = np.bincount(owner, minlength=len(ids))
    crowded = np.flatnonzero(counts > MAX_OBJECTS)
    told = [
        Fault("images with too many objects", f"{names[row]} has {counts[row]}, the limit is {MAX_OBJECTS}")
        for row in crowded.tolist()
    ]
    rows = np.argsort(owner, kind="stable")
    rows = rows[counts[owner[rows]] <= MAX_OBJECTS]
    counts[crowded] = 0
    objects = objects[rows]
    encoded = [os.fsencode(name) for name in names]  # file names need not be UTF-8
    arrays: dict[str, np.ndarray] = {
        "names": np.frombuffer(b"\0".join(encoded), np.uint8),  # no name has a 0 byte
        "name_ends": np.cumsum([len(name) + 1 for name in encoded], dtype=np.int64) - 1,
        "ids": ids.astype(np.int64),
        "sizes": sizes.astype(np.int32).reshape(-1, 2),
        "starts": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "boxes": objects.boxes,
        "labels": objects.labels.astype(np.int32),
        "ignore": objects.ignore,
        "areas": objects.areas,
    }
    facts = {
        "class_names": list(class_names),
        "faults": [dataclasses.astuple(fault) for fault in (*faults, *told)],
        "notes": [dataclasses.astuple(note) for note in notes],
    }
    return Entry(arrays, facts)


def image_names(packed: Entry) -> list[str]:
    """The names that were given to `pack`."""
    data = os.fsdecode(packed.arrays["names"].tobytes())
    return data.split("\0") if len(packed.arrays["ids"]) else []


class PackedDataset(DetectionDataset):
    """Images of one folder with packed annotations; what the file readers produce."""

    def __init__(
        self,
        folder: Path,
        packed: Entry,
        rows: np.ndarray | None = None,
        *,
        keep_alpha: bool,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Args:
        folder: of the images.
        packed: made by `pack`.
        rows: int64, the images to use; all when None.
        keep_alpha: whether images are wanted as RGBA.
        notes: what people should know of the set, a line each.
        """
        self.notes = notes
        self.class_names = tuple(packed.facts["class_names"])
        self._folder = folder
        self._packed = packed
        self._rows = rows
        self._keep_alpha = keep_alpha

    def __len__(self) -> int:
        return len(self._packed.arrays["ids"] if self._rows is None else self._rows)

    def annotation(self, index: int) -> Annotation:
        row, arrays = self._row(index), self._packed.arrays
        own = slice(arrays["starts"][row], arrays["starts"][row + 1])
        height, width = arrays["sizes"][row].tolist()
        labels = arrays["labels"][own].astype(np.int64)
        boxes, ignore, areas = arrays["boxes"][own], arrays["ignore"][own], arrays["areas"][own]
        return Annotation(int(arrays["ids"][row]), self._path(row), height, width, boxes, labels, ignore, areas)

    def read_image(self, index: int) -> np.ndarray:
        return self.read_reduced(index, 1)

    def read_reduced(self, index: int, factor: int) -> np.ndarray:
        row = self._row(index)
        path = self._path(row)
        image = read_image(path, self._keep_alpha, factor)
        size, declared = image.shape[:2], tuple(self._packed.arrays["sizes"][row].tolist())
        if size not in (declared, tuple(-(-side // factor) for side in declared)):  # changed since it was looked at
            raise DataError(other_size(path, image_header(path), declared), "correct the annotation, or the image")
        return image

    def _row(self, index: int) -> int:
        index = range(len(self))[index]
        return index if self._rows is None else int(self._rows[index])

    def _path(self, row: int) -> Path:
        ends = self._packed.arrays["name_ends"]
        name = self._packed.arrays["names"][ends[row - 1] + 1 if row else 0 : ends[row]]
        return self._folder / os.fsdecode(name.tobytes())


def absent(path: Path) -> str:
    """The place of an image that isn't there, and what may be the cause."""
    return f"{path}: a Windows path; write / for its backslashes" if "\\" in str(path) else str(path)


def notes_on(others: np.ndarray, sticking_out: np.ndarray, where: Callable[[int], str]) -> list[Fault]:
    """What is worth telling of objects, and not wrong.

    Args:
        others: bool (N,), which of them the class list leaves out: that is how a person-only training works.
        sticking_out: bool (N,), which of them were clipped by more than `STICKING_OUT_PX`.
        where: an object is, by its row.
    """
    notes = []
    if others.any():
        left_out = "dataset.class_names doesn't name them; they are left out"
        notes.append(Fault("objects of other classes", left_out, int(others.sum())))
    if sticking_out.any():
        first = where(int(sticking_out.argmax()))
        notes.append(Fault("boxes that stick out of their image", f"clipped, {first}", int(sticking_out.sum())))
    return notes


class CleanBoxes(NamedTuple):
    """Boxes inside their images.

    Attributes:
        boxes: float32 (N, 4), xyxy, pixels, clipped.
        usable: bool (N,), which of them are numbers and have an area.
        sticking_out: bool (N,), which usable ones were clipped by more than `STICKING_OUT_PX`.
    """

    boxes: np.ndarray
    usable: np.ndarray
    sticking_out: np.ndarray


def clean_boxes(boxes: np.ndarray, sizes: np.ndarray) -> CleanBoxes:
    """Clip boxes to their images.

    Args:
        boxes: float (N, 4), xyxy, pixels.
        sizes: int (N, 2) or (2,), (height, width) of each box's image.
    """
    limits = np.broadcast_to(sizes, (len(boxes), 2))[:, [1, 0, 1, 0]]
    clipped = np.clip(boxes, 0, limits).astype(np.float32)
    usable = np.isfinite(boxes).all(1) & (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    with np.errstate(invalid="ignore"):  # what isn't usable may be no number
        outside = np.abs(boxes - clipped).max(1, initial=0) > STICKING_OUT_PX
    return CleanBoxes(clipped, usable, usable & outside)


def replay(packed: Entry, complaints: Complaints) -> None:
    """Note what was found when `packed` was made, and tell what is no fault."""
    for kind, where, count in packed.facts["faults"]:
        complaints.add(kind, where, count)
    for note in packed.facts["notes"]:
        complaints.note(Fault(*note))


def is_inside(name: str) -> bool:
    """Whether a path from an annotation file stays within the folder it is relative to.

    Judged by the text alone: a link in the user's folder may point anywhere, an annotation file may not.
    """
    if ".." not in name and ":" not in name and "\0" not in name and not name.startswith(("/", "\\")):
        return True  # what nearly all names are; a Path for each of 100 000 takes a while
    path = Path(name)
    return "\0" not in name and not path.anchor and ".." not in path.parts


SHOWN = 10
"""Names that a message lists."""
CLOSE = 0.75
"""Names this alike, as `difflib` measures it, are taken for one name and its misspelling."""
MAX_PAIRS = 100_000
"""Most pairs of names that are compared letter by letter."""


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        names: in label order.
        labels: name to label; the names that annotations use and that aren't here are of no wanted class.
        notes: what is worth telling of them.
    """

    names: tuple[str, ...]
    labels: dict[str, int]
    notes: list[Fault]


def resolve_classes(request: DatasetRequest, found: Sequence[str], source: str, *, listed: bool = True) -> Classes:
    """The classes that the request names, else all that were found. A name tells classes apart: two of one name are one.

    Where the user wrote the names, one that the annotations don't know is a typo: always in the training set; elsewhere
    when none of them is known, or when it looks like a class that would be left out. Other names, of weights or of the
    training set, may be missing: such a class has no object and no score.

    Args:
        found: names that the annotations know, or use.
        source: where from, for messages.
        listed: whether the annotations list their classes, so that one without objects is there all the same.

    Raises:
        DataError: the request names a class that the annotations should have, or one twice.
    """
    known = list(dict.fromkeys(found))
    notes = []
    if listed and len(known) < len(found):
        twice = next(name for name, times in Counter(found).items() if times > 1)
        notes.append(
            Fault("classes of one name", f"{twice!r} in {source}; they are one class", len(found) - len(known))
        )
    wanted = request.class_names
    if wanted is None:
        return Classes(tuple(known), {name: label for label, name in enumerate(known)}, notes)
    there = set(known)
    unknown = [name for name in wanted if name not in there]
    if request.guard_names and (known or listed):  # no object at all is told by whoever needs some
        _guard(request, wanted, unknown, known, source, listed)
    if unknown and listed:
        text = f"no AP for {_few(unknown)}; {source} doesn't list them"
        notes.append(Fault("classes that the annotations don't list", text, len(unknown)))
    return Classes(wanted, {name: label for label, name in reversed(list(enumerate(wanted)))}, notes)


def _guard(
    request: DatasetRequest, wanted: Sequence[str], unknown: list[str], known: list[str], source: str, listed: bool
) -> None:
    """Raises:
    DataError: a name that the user wrote is a typo.
    """
    named = set(wanted)
    if len(named) < len(wanted):
        raise DataError("dataset.class_names names a class twice")
    close = _misspelt(unknown, [name for name in known if name not in named]) if unknown else None
    strict = listed and request.split == "train"
    if unknown and (strict or close or len(unknown) == len(wanted)):
        meant = f"; did you mean {close[1]!r} instead of {close[0]!r}?" if close else ""
        raise DataError(
            f"dataset.class_names has {_few(list(map(repr, unknown)))}, but {source} has only: {_few(known)}{meant}",
            "correct dataset.class_names, or leave it out to use all classes of the annotations",
        )


def _misspelt(names: list[str], others: list[str]) -> tuple[str, str] | None:
    """The first of `names` that looks like one of `others`, and that one."""
    plain = {"".join(filter(str.isalnum, other.casefold())): other for other in others}
    for name in names:
        letters = "".join(filter(str.isalnum, name.casefold()))
        if letters in plain:
            return name, plain[letters]
        if len(names) * len(others) <= MAX_PAIRS and (near := get_close_matches(letters, plain, 1, CLOSE)):
            return name, plain[near[0]]
    return None


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more
