"""COCO JSON instances (https://cocodataset.org/#format-data), boxes only: polygons are never built."""

from __future__ import annotations

import logging
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np

from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest
from stdet_datasets.packed import (
    Complaints,
    ImageRecord,
    PackedDataset,
    clean_boxes,
    required_folder,
    resolve_classes,
    usable_image,
)

log = logging.getLogger(__name__)


class _Image(msgspec.Struct):
    id: int
    file_name: str
    height: int
    width: int


class _Category(msgspec.Struct):
    id: int
    name: str


class _Object(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: int = 0


class _Instances(msgspec.Struct):
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
        if len({c.id for c in categories}) < len(categories):
            raise DataError(f"{path}: two categories have the same id")
        names = resolve_classes(request.class_names, [c.name for c in categories], str(path))
        labels = {c.id: names.index(c.name) for c in categories if c.name in names}
        complaints = Complaints(request)
        objects = _objects_by_image(path, instances, {c.id for c in categories}, complaints)
        records = [
            _record(image, objects[image.id], labels, complaints)
            for image in sorted(instances.images, key=lambda i: i.id)
            if usable_image(folder, image.file_name, request, complaints)
        ]
        complaints.settle()
        super().__init__(folder, names, records)


def _read(path: Path) -> _Instances:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "check the annotations path of the split") from error
    try:
        return msgspec.json.decode(data, type=_Instances)
    except msgspec.ValidationError as error:
        raise DataError(
            f"{path} is not a COCO instances file: {error}", "it needs images, annotations, categories"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f"{path}:{_line_of(str(error), data)}: malformed JSON: {error}", "mend or replace the file"
        ) from error


def _line_of(message: str, data: bytes) -> int:
    """The line that msgspec's byte position is on; the last line when it names none (truncated data)."""
    _, _, tail = message.rpartition("(byte ")
    position = int(tail.rstrip(")")) if tail.rstrip(")").isdigit() else len(data)
    return data.count(b"\n", 0, position) + 1


def _objects_by_image(
    path: Path, instances: _Instances, categories: set[int], complaints: Complaints
) -> dict[int, list[_Object]]:
    images = {image.id for image in instances.images}
    if len(images) < len(instances.images):
        raise DataError(f"{path}: two images have the same id")
    objects: dict[int, list[_Object]] = defaultdict(list)
    for number, item in enumerate(instances.annotations):
        if item.image_id not in images:
            complaints.add("annotations of no image", f"annotations[{number}] of {path}: image_id {item.image_id}")
        elif item.category_id not in categories:
            complaints.add(
                "annotations of no category", f"annotations[{number}] of {path}: category_id {item.category_id}"
            )
        else:
            objects[item.image_id].append(item)
    return objects


def _record(image: _Image, objects: list[_Object], labels: dict[int, int], complaints: Complaints) -> ImageRecord:
    own = [o for o in objects if o.category_id in labels]
    xywh = np.array([o.bbox for o in own], np.float64).reshape(-1, 4)
    boxes, usable = clean_boxes(np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]), image.height, image.width)
    for _ in range(int((~usable).sum())):
        complaints.add("boxes outside the image or without area", image.file_name)
    areas = [o.bbox[2] * o.bbox[3] if o.area is None else o.area for o in own]
    return ImageRecord(
        image.id,
        image.file_name,
        image.height,
        image.width,
        boxes[usable],
        np.array([labels[o.category_id] for o in own], np.int64)[usable],
        np.array([o.iscrowd != 0 for o in own], bool)[usable],
        np.array(areas, np.float32)[usable],
    )
