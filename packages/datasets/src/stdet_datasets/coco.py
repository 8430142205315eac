"""COCO JSON instances (https://cocodataset.org/#format-data), boxes only: polygons are never built."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stdet.data.complaints import Complaints
from stdet.data.files import check_file
from stdet.data.folder import required_folder
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, Fault
from stdet_datasets.annotation_cache import Entry, cached, content_hash, digest_of
from stdet_datasets.coco_json import Object, read_instances
from stdet_datasets.images import check_images, measure_images
from stdet_datasets.packed import (
    MAX_AREA,
    Objects,
    PackedDataset,
    clean_boxes,
    image_names,
    is_inside,
    notes_on,
    pack,
    replay,
    resolve_classes,
)


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
        check_file(path, None)
        complaints = Complaints(request)
        key = [
            "coco",
            str(path),
            content_hash([path]),
            request.class_names,
            request.guard_names,
            request.split == "train",
        ]
        packed = cached(key, lambda: _pack(path, request, None))
        names, sizes = image_names(packed), packed.arrays["sizes"]
        if packed.facts["unsized"]:  # which decides what of their boxes is inside
            told = Complaints(replace(request, on_bad_data="error", on_fault=lambda _: None))
            found = measure_images(folder, names, whole=False, complaints=told)
            sizes = np.where((sizes > 0).all(1, keepdims=True), sizes, found)
            packed = cached([*key, digest_of([sizes.tobytes()])], lambda: _pack(path, request, sizes))
        replay(packed, complaints)
        rows = check_images(folder, names, packed.arrays["sizes"], complaints)
        complaints.settle()
        super().__init__(folder, packed, rows, keep_alpha=request.keep_alpha, notes=tuple(complaints.notes))


class _Categories(NamedTuple):
    """Category ids, ascending, and the label of each; -1 for those that aren't wanted."""

    ids: np.ndarray
    labels: np.ndarray


class _Objects(NamedTuple):
    owner: np.ndarray
    objects: Objects
    faults: list[Fault]
    notes: list[Fault]


def _pack(path: Path, request: DatasetRequest, measured: np.ndarray | None) -> Entry:
    """`measured`: int32 (I, 2), sizes in the order of the ids, (0, 0) of images whose size nobody knows."""
    reading = read_instances(path)
    instances = reading.instances
    images = sorted(instances.images, key=lambda image: image.id)
    names = [image.file_name for image in images]
    outside = next((name for name in names if not is_inside(name)), None)
    if outside is not None:
        raise DataError(f"{path}: the image name {outside!r} leaves the images folder", "mend the annotation file")
    ids = _distinct((i.id for i in images), len(images), f"{path}: two images")
    sizes = np.array([(i.height, i.width) for i in images], np.int32).reshape(-1, 2)
    sizes = np.where((sizes > 0).all(1, keepdims=True), sizes, 0) if measured is None else measured
    categories = sorted(instances.categories, key=lambda c: c.id)
    category_ids = _distinct((c.id for c in categories), len(categories), f"{path}: two categories")
    classes = resolve_classes(request, [c.name for c in categories], str(path))
    labels = np.array([classes.labels.get(c.name, -1) for c in categories], np.int32)
    columns = _columns(instances.annotations, reading.rows)
    del instances, images  # the file as Python objects is by far the largest thing here
    owner, objects, faults, notes = _objects(columns, sizes, ids, _Categories(category_ids, labels), path)
    notes = [*classes.notes, *_listed_twice(names, ids), *notes]
    packed = pack(classes.names, names, ids, sizes, owner, objects, [*reading.faults, *faults], notes)
    packed.facts["unsized"] = measured is None and not (sizes > 0).all()
    return packed


def _listed_twice(names: list[str], ids: np.ndarray) -> list[Fault]:
    """One file under several ids: every id is an image of its own to the judge, who finds the others' objects wrong."""
    if len(set(names)) == len(names):
        return []
    rows = defaultdict(list)
    for row, name in enumerate(names):
        rows[name].append(int(ids[row]))
    twice = {name: own for name, own in rows.items() if len(own) > 1}
    first, own = next(iter(twice.items()))
    text = f"{first} is {len(own)} images with a part of the objects each: {', '.join(map(str, own[:10]))}"
    return [Fault("images listed under several ids", text, len(twice))]


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
    """The annotations of a file, one row each: int64 place in the file's list and ids, float64 (N, 4) boxes and (N,)
    areas, bool crowd."""

    rows: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray
    xywh: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


def _columns(items: list[Object], rows: np.ndarray) -> _Columns:
    count = len(items)
    return _Columns(
        rows,
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
    known[known] = (sizes[image[known]] > 0).all(1)  # images of unknown size are left out with all that is in them
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
        return f"annotations[{found.rows[row]}] of {path}: {what} {values[row].tolist()}"

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
