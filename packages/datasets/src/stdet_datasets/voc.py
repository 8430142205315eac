"""Pascal VOC: a text file of image names, one XML an image (Everingham et al., IJCV 2010)."""

from __future__ import annotations

import xml.etree.ElementTree as ET
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
    ImageRecord,
    PackedDataset,
    clean_boxes,
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
        stems = _split_names(request.split_path, xml_folder)
        files = {path.stem: path.name for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES}
        parsed = {stem: _read(xml_folder / f"{stem}.xml") for stem in stems}
        found = sorted({o.name for objects in parsed.values() for o in objects})
        names = resolve_classes(request.class_names, _known(request.class_names, found), str(xml_folder))
        records = [
            _record(number, folder, files[stem], objects, names, complaints)
            for number, (stem, objects) in enumerate(parsed.items())
            if _has_image(folder, stem, files, request, complaints)
        ]
        complaints.settle()
        super().__init__(folder, names, records)


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
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DataError(f"the split list {path} is empty")
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise DataError(f"the split list {path} names {repeated[0]} twice")
    return names


def _has_image(folder: Path, stem: str, files: dict[str, str], request: DatasetRequest, complaints: Complaints) -> bool:
    if stem not in files:
        complaints.add("missing images", str(folder / f"{stem}.jpg"))
        return False
    return usable_image(folder, files[stem], request, complaints)


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


def _record(
    number: int, folder: Path, name: str, objects: list[_Object], names: tuple[str, ...], complaints: Complaints
) -> ImageRecord:
    # The size in the XML is often wrong in home-made sets; the image's own header never is.
    height, width = image_size(folder / name)
    own = [o for o in objects if o.name in names]
    boxes, usable = clean_boxes(np.array([o.box for o in own], np.float64).reshape(-1, 4), height, width)
    for _ in range(int((~usable).sum())):
        complaints.add("boxes outside the image or without area", name)
    sizes = boxes[:, 2:] - boxes[:, :2]
    return ImageRecord(
        number,
        name,
        height,
        width,
        boxes[usable],
        np.array([names.index(o.name) for o in own], np.int64)[usable],
        np.array([o.difficult for o in own], bool)[usable],
        sizes.prod(1)[usable],
    )
