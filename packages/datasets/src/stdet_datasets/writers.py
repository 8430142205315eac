"""Writers of the formats that this package reads; what each can't say is counted, never dropped in silence."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

import msgspec
import numpy as np
import yaml

from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetWriter, WriteRequest, WrittenSplit
from stdet.structures import Annotation

DECIMALS = 3
"""Most annotations were made with so many; a float32 that is such a decimal number is written as one."""


def decimals(values: np.ndarray) -> np.ndarray:
    """float64 of float32 `values` of any shape, the shortest where `DECIMALS` digits tell them from their neighbours."""
    exact = values.astype(np.float64)
    rounded = np.round(exact, DECIMALS)
    return np.where(rounded.astype(np.float32) == values, rounded, exact)


class CocoWriter(DatasetWriter):
    """COCO JSON. Category ids are the labels, so they start from 0; `ignore` becomes `iscrowd`; there are no masks."""

    def __init__(self, request: WriteRequest) -> None:
        super().__init__(request)
        self._path = request.folder / "annotations" / f"instances_{request.split}.json"
        self._path.parent.mkdir(exist_ok=True)
        self._images: list[bytes] = []
        self._count = 0
        self._encode = msgspec.json.Encoder().encode
        categories = [{"id": label, "name": name} for label, name in enumerate(request.class_names)]
        self._file = self._path.open("wb")
        self._file.write(b'{"categories": ' + self._encode(categories) + b',\n"annotations": [')

    @property
    def images_folder(self) -> Path:
        return self.request.folder / self.request.split

    def add(self, name: str, annotation: Annotation) -> None:
        a = annotation
        entry = {"id": a.image_id, "file_name": name, "height": a.height, "width": a.width}
        self._images.append(self._encode(entry))
        corners = decimals(a.boxes)
        # x + w must give the same float32 again, so the size is the difference of what is written
        sizes = corners[:, 2:] - corners[:, :2]
        short = np.round(sizes, DECIMALS)
        sizes = np.where((corners[:, :2] + short).astype(np.float32) == a.boxes[:, 2:], short, sizes)
        boxes = np.hstack([corners[:, :2], sizes]).tolist()
        rows = zip(boxes, a.labels.tolist(), a.ignore.tolist(), decimals(a.areas).tolist(), strict=True)
        for bbox, label, ignore, area in rows:
            self._file.write(b",\n" if self._count else b"\n")
            self._count += 1
            self._file.write(
                self._encode(
                    {
                        "id": self._count,
                        "image_id": a.image_id,
                        "category_id": label,
                        "bbox": bbox,
                        "area": area,
                        "iscrowd": int(ignore),
                    }
                )
            )

    def finish(self) -> WrittenSplit:
        self._file.write(b'\n],\n"images": [\n' + b",\n".join(self._images) + b"\n]}\n")
        self._file.close()
        return WrittenSplit(self._path)


class _ByStem(DatasetWriter):
    """Formats with one text file an image, called as the image is but for the suffix."""

    def __init__(self, request: WriteRequest) -> None:
        super().__init__(request)
        unfit = next((n for n in request.class_names if not n or n != n.strip() or not n.isprintable()), None)
        if unfit is not None:
            raise DataError(f"the class name {unfit!r} can't stand in these files", "rename the class, or use coco")
        self.lost: Counter[str] = Counter()
        self._stems: dict[str, str] = {}

    def new_stem(self, name: str) -> str:
        """Raises:
        DataError: another image has the stem already.
        """
        stem = str(PurePosixPath(name).with_suffix(""))
        other = self._stems.setdefault(stem, name)
        if other != name:
            raise DataError(
                f"{other} and {name} would share the annotation file {stem}", "rename one of them, or convert to coco"
            )
        return stem


class VocWriter(_ByStem):
    """Pascal VOC, each split a folder with `Annotations`, `ImageSets/Main` and `JPEGImages`. `ignore` becomes
    `difficult`. Coordinates count pixels from 1 as VOC's do, with decimals where the box has them."""

    def __init__(self, request: WriteRequest) -> None:
        super().__init__(request)
        self._root = request.folder / request.split
        self._xml = self._root / "Annotations"
        self._list = self._root / "ImageSets" / "Main" / f"{request.split}.txt"
        self._xml.mkdir(parents=True)
        self._list.parent.mkdir(parents=True)

    @property
    def images_folder(self) -> Path:
        return self._root / "JPEGImages"

    def add(self, name: str, annotation: Annotation) -> None:
        if "/" in name:
            raise DataError(f"VOC has all images in one folder, but {name} lies deeper", "copy or link the images")
        a, names = annotation, self.request.class_names
        boxes = decimals(a.boxes) + np.array([1, 1, 0, 0])
        self.lost["areas of masks (VOC has boxes only)"] += int((a.areas != _box_areas(a.boxes)).sum())
        objects = "".join(
            _voc_object(names[label], box, difficult)
            for box, label, difficult in zip(boxes.tolist(), a.labels.tolist(), a.ignore.tolist(), strict=True)
        )
        text = (
            f"<annotation>\n\t<filename>{escape(name)}</filename>\n"
            f"\t<size><width>{a.width}</width><height>{a.height}</height><depth>3</depth></size>\n"
            f"{objects}</annotation>\n"
        )
        stem = self.new_stem(name)
        (self._xml / f"{stem}.xml").write_text(text, encoding="utf-8")

    def finish(self) -> WrittenSplit:
        self._list.write_text("".join(f"{stem}\n" for stem in self._stems), encoding="utf-8")
        return WrittenSplit(self._xml, self._list, dict(+self.lost))


def _box_areas(boxes: np.ndarray) -> np.ndarray:
    """float32 (N,), as the readers compute the area of an object that has only its box."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


def _voc_object(name: str, box: list[float], difficult: bool) -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    corners = "".join(f"<{side}>{int(v) if v.is_integer() else v}</{side}>" for side, v in sides)
    return (
        f"\t<object>\n\t\t<name>{escape(name)}</name>\n\t\t<difficult>{int(difficult)}</difficult>\n"
        f"\t\t<bndbox>{corners}</bndbox>\n\t</object>\n"
    )


class YoloWriter(_ByStem):
    """YOLO text labels in Ultralytics' layout: `images/<split>`, `labels/<split>`, and one `data.yaml` with the names.

    The format has no flag to say that an object is to be ignored, so those are left out.
    """

    lists_images = False

    def __init__(self, request: WriteRequest) -> None:
        super().__init__(request)
        self._labels = request.folder / "labels" / request.split
        self._labels.mkdir(parents=True)

    @property
    def images_folder(self) -> Path:
        return self.request.folder / "images" / self.request.split

    def add(self, name: str, annotation: Annotation) -> None:
        a, keep = annotation, ~annotation.ignore
        self.lost["crowd regions or difficult objects (YOLO can't mark them)"] += int(a.ignore.sum())
        self.lost["areas of masks (YOLO has boxes only)"] += int((a.areas != _box_areas(a.boxes))[keep].sum())
        rows = zip(a.labels[keep].tolist(), _shares(a.boxes[keep], a.height, a.width).tolist(), strict=True)
        text = "".join(f"{label} {' '.join(map(repr, share))}\n" for label, share in rows)
        path = self._labels / f"{self.new_stem(name)}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def finish(self) -> WrittenSplit:
        folder = self.request.folder
        splits = {p.name: f"images/{p.name}" for p in sorted((folder / "labels").iterdir())}
        document = splits | {"names": dict(enumerate(self.request.class_names))}
        (folder / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), "utf-8")
        return WrittenSplit(self._labels, lost=dict(+self.lost))


def _shares(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """float64 (N, 4), cx cy w h as shares of the image, with as few digits as give float32 `boxes` back."""
    size = np.array([width, height] * 2, np.float64)
    corners = boxes / size
    exact = np.hstack([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]])
    for digits in (6, 9, 12):
        short = np.round(exact, digits)
        back = np.hstack([short[:, :2] - short[:, 2:] / 2, short[:, :2] + short[:, 2:] / 2]) * size
        if (back.astype(np.float32) == boxes).all():
            return short
    return exact
