"""COCO JSON instances (https://cocodataset.org/#format-data), boxes only: polygons are never built."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest
from stdet_datasets.packed import (
    MAX_AREA,
    Complaints,
    Objects,
    PackedDataset,
    clean_boxes,
    note_other_classes,
    required_folder,
    resolve_classes,
    usable_image,
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
        instances = _read(path)
        categories = sorted(instances.categories, key=lambda c: c.id)
        names = resolve_classes(request.class_names, [c.name for c in categories], str(path))
        complaints = Complaints(request)
        images = sorted(instances.images, key=lambda image: image.id)
        usable = [usable_image(folder, i.file_name, (i.height, i.width), complaints) for i in images]
        ids = _distinct((i.id for i in images), len(images), f"{path}: two images")
        sizes = np.array([(i.height, i.width) for i in images], np.int32).reshape(-1, 2)
        owner, objects = _objects(path, instances, names, ids, sizes, request.split, complaints)
        complaints.settle()
        kept = np.array(usable, bool)
        rows = kept[owner]
        counts = np.bincount(owner[rows], minlength=len(images))[kept]
        paths = [image.file_name for image, use in zip(images, usable, strict=True) if use]
        super().__init__(
            folder, names, paths, ids[kept], sizes[kept], counts, objects[rows], keep_alpha=request.keep_alpha
        )


def _read(path: Path) -> _Instances:
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "check the annotations path of the split") from error
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


def _objects(
    path: Path,
    instances: _Instances,
    names: tuple[str, ...],
    ids: np.ndarray,
    sizes: np.ndarray,
    split: str,
    complaints: Complaints,
) -> tuple[np.ndarray, Objects]:
    """The usable objects ordered by image, and for each the row of its image in `ids`."""
    items, count = instances.annotations, len(instances.annotations)
    categories = sorted(instances.categories, key=lambda c: c.id)
    category_ids = _distinct((c.id for c in categories), len(categories), f"{path}: two categories")
    category_labels = np.array([names.index(c.name) if c.name in names else -1 for c in categories], np.int64)
    image, known_image = _places(np.fromiter((o.image_id for o in items), np.int64, count), ids)
    category, known_category = _places(np.fromiter((o.category_id for o in items), np.int64, count), category_ids)
    known = known_image & known_category
    wanted = known.copy()
    wanted[known] = category_labels[category[known]] >= 0
    note_other_classes(split, int((known & ~wanted).sum()))

    xywh = np.fromiter(chain.from_iterable(o.bbox for o in items), np.float64, 4 * count).reshape(-1, 4)
    areas = np.fromiter((o.bbox[2] * o.bbox[3] if o.area is None else o.area for o in items), np.float64, count)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is no usable box
        xyxy = np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])
    boxes = np.zeros((count, 4), np.float32)
    with_area, sized = np.zeros(count, bool), (areas >= 0) & (areas <= MAX_AREA)
    boxes[known], with_area[known] = clean_boxes(xyxy[known], sizes[image[known]])

    def complain(kind: str, faulty: np.ndarray, what: str) -> None:
        if faulty.any():
            first = int(faulty.argmax())
            where = f"annotations[{first}] of {path}: {what} {getattr(items[first], what)}"
            complaints.add(kind, where, int(faulty.sum()))

    complain("annotations of no image", ~known_image, "image_id")
    complain("annotations of no category", known_image & ~known_category, "category_id")
    complain("boxes outside the image or without area", wanted & ~with_area, "bbox")
    complain("areas that are none", wanted & with_area & ~sized, "area")
    rows = np.flatnonzero(wanted & with_area & sized)
    rows = rows[np.argsort(image[rows], kind="stable")]
    crowd = np.fromiter((o.iscrowd != 0 for o in items), bool, count)
    return image[rows], Objects(
        boxes[rows], category_labels[category[rows]], crowd[rows], areas[rows].astype(np.float32)
    )
