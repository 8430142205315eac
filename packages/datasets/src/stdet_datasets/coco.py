"""COCO JSON instances (https://cocodataset.org/#format-data), boxes only: polygons are never built."""

from __future__ import annotations

import codecs
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import numpy as np

from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, Fault
from stdet_datasets.annotation_cache import Entry, cached, content_hash
from stdet_datasets.images import check_images
from stdet_datasets.packed import (
    MAX_AREA,
    Complaints,
    Objects,
    PackedDataset,
    clean_boxes,
    image_names,
    is_inside,
    notes_on,
    pack,
    required_folder,
    resolve_classes,
)

Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Side = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    height: Side
    width: Side


class _Category(msgspec.Struct, gc=False):
    id: Id
    name: str


class _Object(msgspec.Struct, gc=False):
    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: Id = 0


class _Instances(msgspec.Struct, gc=False):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Object] = []


class CocoDataset(PackedDataset):
    """A COCO annotation file and its images.

    Labels follow `class_names`; without them, the category ids in ascending order. Objects of other categories are left
    out. Crowd regions are `ignore`. Boxes are clipped to the image.
    """

    def __init__(self, request: DatasetRequest) -> None:
        """Raises:
        DataError: names the file, and the line where JSON is malformed.
        """
        folder = required_folder(request.images_path, f"{request.split}_images_path")
        path = request.annotations_path
        if path is None:
            raise DataError(f"dataset.{request.split}_annotations_path is not set", "give the COCO JSON file")
        complaints = Complaints(request)
        key = ["coco", str(path), content_hash([path]), request.class_names]
        packed = cached(key, lambda: _pack(path, request.class_names))
        complaints.replay(packed)
        rows = check_images(folder, image_names(packed), packed.arrays["sizes"], complaints)
        complaints.settle()
        super().__init__(folder, packed, rows, keep_alpha=request.keep_alpha)


class _Categories(NamedTuple):
    """Category ids, ascending, and the label of each; -1 for those that aren't wanted."""

    ids: np.ndarray
    labels: np.ndarray


class _Objects(NamedTuple):
    owner: np.ndarray
    objects: Objects
    faults: list[Fault]
    notes: list[Fault]


def _pack(path: Path, class_names: tuple[str, ...] | None) -> Entry:
    instances = _read(path)
    images = sorted(instances.images, key=lambda image: image.id)
    names = [image.file_name for image in images]
    outside = next((name for name in names if not is_inside(name)), None)
    if outside is not None:
        raise DataError(f"{path}: the image name {outside!r} leaves the images folder", "mend the annotation file")
    ids = _distinct((i.id for i in images), len(images), f"{path}: two images")
    sizes = np.array([(i.height, i.width) for i in images], np.int32).reshape(-1, 2)
    categories = sorted(instances.categories, key=lambda c: c.id)
    category_ids = _distinct((c.id for c in categories), len(categories), f"{path}: two categories")
    classes = resolve_classes(class_names, [c.name for c in categories], str(path))
    labels = np.array([classes.index(c.name) if c.name in classes else -1 for c in categories], np.int32)
    columns = _columns(instances.annotations)
    del instances, images  # the file as Python objects is by far the largest thing here
    return pack(classes, names, ids, sizes, *_objects(columns, sizes, ids, _Categories(category_ids, labels), path))


def _read(path: Path) -> _Instances:
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b"")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "check the annotations path of the split") from error
    start = bytes(data[:3])
    if start == codecs.BOM_UTF8:
        data = data[3:]
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path} is encoded as UTF-16", "save it as UTF-8")
    try:
        return msgspec.json.decode(data, type=_Instances)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{path} is not a COCO instances file: {error}", "it needs images, annotations, categories"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        line = _line_of(str(error), bytes(data))
        raise DataError(f"{path}:{line}: malformed JSON: {error}", "mend or replace the file") from error


def _line_of(message: str, data: bytes) -> int:
    """The line that msgspec's byte position is on; the last line when it names none (truncated data)."""
    _, _, tail = message.rpartition("(byte ")
    position = int(tail.rstrip(")")) if tail.rstrip(")").isdigit() else len(data)
    return data.count(b"\n", 0, position) + 1


def _distinct(ids: Iterable[int], count: int, what: str) -> np.ndarray:
    array = np.fromiter(ids, np.int64, count)
    if (np.diff(array) == 0).any():
        raise DataError(f"{what} have the id {array[:-1][np.diff(array) == 0][0]}", "ids must be unique")
    return array


def _places(values: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each value is in the ascending array `among`, and bool: whether it is there at all."""
    if not len(among):
        return np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    places = np.searchsorted(among, values).clip(max=len(among) - 1)
    return places, among[places] == values


@dataclass(frozen=True)
class _Columns:
    """The annotations of a file, one row each: int64 ids, float64 (N, 4) boxes and (N,) areas, bool crowd."""

    image_ids: np.ndarray
    category_ids: np.ndarray
    xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


def _columns(items: list[_Object]) -> _Columns:
    count = len(items)
    return _Columns(
        np.fromiter((o.image_id for o in items), np.int64, count),
        np.fromiter((o.category_id for o in items), np.int64, count),
        np.fromiter(chain.from_iterable(o.bbox for o in items), np.float64, 4 * count).reshape(-1, 4),
        np.fromiter((o.bbox[2] * o.bbox[3] if o.area is None else o.area for o in items), np.float64, count),
        np.fromiter((o.iscrowd != 0 for o in items), bool, count),
    )


def _objects(found: _Columns, sizes: np.ndarray, ids: np.ndarray, categories: _Categories, path: Path) -> _Objects:
    """The usable objects, each with the row of its image, and what was wrong with the others."""
    image, known_image = _places(found.image_ids, ids)
    category, known_category = _places(found.category_ids, categories.ids)
    known = known_image & known_category
    wanted = known.copy()
    wanted[known] = categories.labels[category[known]] >= 0
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is no usable box
        xyxy = np.hstack([found.xywh[:, :2], found.xywh[:, :2] + found.xywh[:, 2:]])
    boxes = np.zeros((len(xyxy), 4), np.float32)
    with_area, sticks_out = np.zeros((2, len(xyxy)), bool)
    sized = (found.areas >= 0) & (found.areas <= MAX_AREA)
    boxes[known], with_area[known], sticks_out[known] = clean_boxes(xyxy[known], sizes[image[known]])
    faults: list[Fault] = []

    def place(row: int, what: str, values: np.ndarray) -> str:
        return f"annotations[{row}] of {path}: {what} {values[row].tolist()}"

    def complain(kind: str, faulty: np.ndarray, what: str, values: np.ndarray) -> None:
        if faulty.any():
            faults.append(Fault(kind, place(int(faulty.argmax()), what, values), int(faulty.sum())))

    complain("annotations of no image", ~known_image, "image_id", found.image_ids)
    complain("annotations of no category", known_image & ~known_category, "category_id", found.category_ids)
    complain("boxes outside the image or without area", wanted & ~with_area, "bbox", found.xywh)
    complain("areas that are none", wanted & with_area & ~sized, "area", found.areas)
    notes = notes_on(known & ~wanted, wanted & sized & sticks_out, lambda row: place(row, "bbox", found.xywh))
    rows = np.flatnonzero(wanted & with_area & sized)
    areas = found.areas[rows].astype(np.float32)
    objects = Objects(boxes[rows], categories.labels[category[rows]], found.crowd[rows], areas)
    return _Objects(image[rows], objects, faults, notes)
