"""Pascal VOC: a text file of image names, one XML an image (Everingham et al., IJCV 2010)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from stdet.data.image_io import image_size
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest
from stdet_datasets.packed import (
    Complaints,
    Objects,
    PackedDataset,
    clean_boxes,
    is_inside,
    note_other_classes,
    required_folder,
    resolve_classes,
    usable_image,
)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".JPG", ".JPEG", ".PNG")


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class VocDataset(PackedDataset):
    """A VOC split. Difficult objects are `ignore`.

    VOC counts pixels from 1 and includes the last one, so (xmin, ymin, xmax, ymax) is the box
    (xmin - 1, ymin - 1, xmax, ymax) between pixel edges. Labels follow `class_names`, else the names sorted.
    """

    def __init__(self, request: DatasetRequest) -> None:
        """Raises:
        DataError: names the file, and the line where XML is malformed.
        """
        folder = required_folder(request.images_path, f"{request.split}_images_path")
        xml_folder = required_folder(request.annotations_path, f"{request.split}_annotations_path")
        complaints = Complaints(request)
        files = {path.stem: path.name for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES}
        found = _found_images(request, folder, xml_folder, files, complaints)
        all_names = sorted({o.name for _, _, objects in found for o in objects})
        classes = resolve_classes(request.class_names, _known(request.class_names, all_names), str(xml_folder))
        note_other_classes(request.split, sum(o.name not in classes for _, _, objects in found for o in objects))
        packed = [_pack(name, size, objects, classes, complaints) for name, size, objects in found]
        complaints.settle()
        super().__init__(
            folder,
            classes,
            [name for name, _, _ in found],
            np.arange(len(found)),
            np.array([size for _, size, _ in found], np.int32).reshape(-1, 2),
            np.array([len(objects.labels) for objects in packed], np.int64),
            Objects.join(packed),
            keep_alpha=request.keep_alpha,
        )


_Found = tuple[str, tuple[int, int], list[_Object]]


def _found_images(
    request: DatasetRequest, folder: Path, xml_folder: Path, files: dict[str, str], complaints: Complaints
) -> list[_Found]:
    """Name, (height, width) and objects of the usable images of the split."""
    found: list[_Found] = []
    for stem in _split_names(request.split_path, xml_folder):
        try:
            objects = _read(xml_folder / f"{stem}.xml")
        except DataError as error:
            complaints.add("unusable annotation files", error.message)
            continue
        if stem not in files:
            complaints.add("missing images", str(folder / f"{stem}.jpg"))
        elif usable_image(folder, files[stem], None, complaints):
            try:
                # The size in the XML is often wrong in home-made sets; the image's own header never is.
                found.append((files[stem], image_size(folder / files[stem]), objects))
            except DataError as error:
                complaints.add("unreadable images", error.message)
    return found


def _known(wanted: tuple[str, ...] | None, found: list[str]) -> list[str]:
    """A split may lack a rare class, so a name is only wrong when *none* of the named classes is there."""
    if wanted and set(wanted) & set(found):
        return [*found, *(name for name in wanted if name not in found)]
    return found


def _split_names(path: Path | None, xml_folder: Path) -> list[str]:
    if path is None:
        return sorted(p.stem for p in xml_folder.glob("*.xml"))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the split list {path}: {error}", "check the split paths of dataset") from error
    # VOC's lists of one class say 1, 0 or -1 after the name; the name itself may have spaces.
    names = [re.sub(r"\s+(-1|0|1)$", "", line.strip()) for line in lines if line.strip()]
    if not names:
        raise DataError(f"the split list {path} is empty")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DataError(f"the split list {path} names {name} twice")
    outside = next((name for name in names if not is_inside(name)), None)
    if outside is not None:
        raise DataError(f"the split list {path} has {outside!r}, which leaves the folder", "mend the list")
    return names


def _read(path: Path) -> list[_Object]:
    try:
        root = parse(path, forbid_dtd=True).getroot()
    except FileNotFoundError as error:
        raise DataError(f"no annotation at {path}", "check the annotations path and the split list") from error
    except ET.ParseError as error:
        raise DataError(f"{path}:{error.position[0]}: malformed XML: {error}", "mend or replace the file") from error
    except DefusedXmlException as error:
        raise DataError(
            f"{path} declares a DTD or entities, which VOC files don't need: {error!r}", "remove them"
        ) from error
    except (OSError, ValueError, LookupError) as error:
        raise DataError(f"cannot read {path}: {error}", "mend or replace the file") from error
    return [_object(path, number, item) for number, item in enumerate(root.iter("object"), 1)]


def _object(path: Path, number: int, item: ET.Element) -> _Object:
    name = (item.findtext("name") or "").strip()
    try:
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError as error:
        raise DataError(
            f"{path}: object {number} has no complete bndbox", "xmin, ymin, xmax and ymax are needed"
        ) from error
    if not name:
        raise DataError(f"{path}: object {number} has no name")
    return _Object(name, (x1 - 1, y1 - 1, x2, y2), item.findtext("difficult", "0").strip() == "1")


def _pack(
    name: str, size: tuple[int, int], objects: list[_Object], classes: tuple[str, ...], complaints: Complaints
) -> Objects:
    own = [o for o in objects if o.name in classes]
    boxes, usable = clean_boxes(np.array([o.box for o in own], np.float64).reshape(-1, 4), np.array(size))
    if not usable.all():
        complaints.add("boxes outside the image or without area", name, int((~usable).sum()))
    labels = np.array([classes.index(o.name) for o in own], np.int64)
    ignore = np.array([o.difficult for o in own], bool)
    return Objects(boxes, labels, ignore, (boxes[:, 2:] - boxes[:, :2]).prod(1))[usable]
