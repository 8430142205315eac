"""Pascal VOC: a text file of image names, one XML an image (Everingham et al., IJCV 2010)."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from stdet.data.complaints import Complaints
from stdet.data.files import MAX_TEXT_BYTES, check_file
from stdet.data.folder import SUFFIXES, required_folder
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, Fault
from stdet_datasets.annotation_cache import Entry, cached, content_hash, digest_of
from stdet_datasets.images import measure_images, told
from stdet_datasets.packed import (
    Objects,
    PackedDataset,
    absent,
    clean_boxes,
    notes_on,
    pack,
    replay,
    resolve_classes,
)
from stdet_datasets.split_list import listed_names

TRUE, FALSE = {"1", "true", "yes"}, {"", "0", "false", "no", "unspecified"}
"""What `difficult` says, in any capitals."""


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


class VocDataset(PackedDataset):
    """A VOC split, or several. Difficult objects are `ignore`.

    VOC counts pixels from 1 and includes the last one, so (xmin, ymin, xmax, ymax) is the box
    (xmin - 1, ymin - 1, xmax, ymax) between pixel edges. Labels follow `class_names`, else the names sorted.
    """

    ignored = "difficult"

    def __init__(self, request: DatasetRequest) -> None:
        """Raises:
        DataError: names the file, and the line where XML is malformed.
        """
        complaints = Complaints(request)
        parts = _parts(request)
        base = Path(os.path.commonpath([part.images.absolute() for part in parts]))
        names, files = _image_files(parts, base, complaints)
        sizes = measure_images(base, names, whole=complaints.skip, complaints=complaints)
        use = np.flatnonzero((sizes > 0).all(1)).tolist()
        names, files, sizes = [names[row] for row in use], [files[row] for row in use], sizes[use]
        listed = digest_of([*map(os.fsencode, names), *map(os.fsencode, files)])
        wanted = [request.class_names, request.guard_names]
        key = ["voc", listed, content_hash(files, MAX_TEXT_BYTES), digest_of([sizes.tobytes()]), *wanted]
        packed = cached(key, lambda: _pack(names, files, sizes, request))
        replay(packed, complaints)
        complaints.settle()
        super().__init__(base, packed, keep_alpha=request.keep_alpha, notes=tuple(complaints.notes))


class _Part(NamedTuple):
    """Image names of one list, or of all annotations, and where the images and their annotations are."""

    stems: list[str]
    images: Path
    annotations: Path
    listed: bool


def _parts(request: DatasetRequest) -> list[_Part]:
    """A list that lies where VOC puts it, in `<year>/ImageSets/Main`, knows its folders, when none are given."""
    lists = request.split_path if isinstance(request.split_path, tuple) else (request.split_path,)
    parts = []
    for path in lists:
        images, annotations = request.images_path, request.annotations_path
        if path is not None and path.absolute().parts[-3:-1] == ("ImageSets", "Main"):
            year = path.absolute().parents[2]
            images, annotations = images or year / "JPEGImages", annotations or year / "Annotations"
        images = required_folder(images, f"{request.split}_images_path")
        annotations = required_folder(annotations, f"{request.split}_annotations_path")
        parts.append(_Part(_split_names(path, annotations), images, annotations, listed=path is not None))
    return parts


def _image_files(parts: list[_Part], base: Path, complaints: Complaints) -> tuple[list[str], list[Path]]:
    """Of the images that are there: the name inside `base`, and the annotation file.

    Raises:
        DataError: two lists name the same image.
    """
    found: dict[str, Path] = {}
    for part in parts:
        folder = part.images.absolute()
        there: dict[str, str] = {}
        stems = set(part.stems)
        for name in sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES):
            other = there.setdefault(Path(name).stem, name)
            if other != name and Path(name).stem in stems:
                complaints.add("images that share a label file", f"{folder / other} and {name}")
        if not part.listed and (alone := [name for stem, name in there.items() if stem not in stems]):
            where = f"{folder / alone[0]}; not in this set"
            complaints.note(Fault("images without an annotation file", where, len(alone)))
        for stem in part.stems:
            annotation = part.annotations / f"{stem}.xml"
            if stem not in there:
                if not os.path.isfile(annotation):  # noqa: PTH113 - Path.is_file raises on names that are too long
                    complaints.add("unusable annotation files", f"no annotation at {annotation}")
                complaints.add("missing images", absent(part.images / f"{stem}.jpg"))
                continue
            name = os.path.relpath(folder / there[stem], base).replace(os.sep, "/")
            if name in found:
                raise DataError(f"two split lists name {stem}", "an image may be in one of them only")
            found[name] = annotation
    return list(found), list(found.values())


def _pack(names: list[str], files: list[Path], sizes: np.ndarray, request: DatasetRequest) -> Entry:
    """Read the annotation file of each image; an image whose file is unusable is left out."""
    found, rows, faults = [], [], []
    for row, path in enumerate(told(files, "reading annotations")):
        try:
            found.append(_read(path))
            rows.append(row)
        except DataError as error:
            faults.append(Fault("unusable annotation files", error.message))
    objects = [o for own in found for o in own]
    all_names = sorted({o.name for o in objects})
    where = str(files[0].parent) if files else "the annotations folder"
    classes = resolve_classes(request, all_names, where, listed=False)
    labels = classes.labels
    owner = np.repeat(np.arange(len(found)), [len(own) for own in found])
    known = np.array([o.name in labels for o in objects], bool)
    names, sizes = [names[row] for row in rows], sizes[rows]
    boxes, with_area, sticks_out = clean_boxes(
        np.array([o.box for o in objects], np.float64).reshape(-1, 4), sizes[owner]
    )
    bad = np.flatnonzero(known & ~with_area)
    if len(bad):
        faults.append(Fault("boxes outside the image or without area", names[owner[bad[0]]], len(bad)))
    notes = notes_on(~known, known & sticks_out, lambda row: names[owner[row]])
    packed = Objects(
        boxes,
        np.array([labels.get(o.name, -1) for o in objects], np.int32),
        np.array([o.difficult for o in objects], bool),
        (boxes[:, 2:] - boxes[:, :2]).prod(1),
    )
    usable = np.flatnonzero(known & with_area)
    return pack(
        classes.names,
        names,
        np.arange(len(names)),
        sizes,
        owner[usable],
        packed[usable],
        faults,
        [*classes.notes, *notes],
    )


def _split_names(path: Path | None, xml_folder: Path) -> list[str]:
    if path is None:
        return sorted(p.stem for p in xml_folder.glob("*.xml"))

    def name_of(line: str) -> str:
        """VOC's lists of one class say 1, 0 or -1 after the name; the name itself may have spaces."""
        name = re.sub(r"\s+(-1|0|1)$", "", line)
        return line if name != line and (xml_folder / f"{line}.xml").is_file() else name

    return listed_names(path, name_of)


def _read(path: Path) -> list[_Object]:
    check_file(path)
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
    if root.tag != "annotation":
        raise DataError(
            f"{path} is no Pascal VOC file: its root is <{root.tag}>, not <annotation>", "mend or remove it"
        )
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
    difficult = (item.findtext("difficult") or "").strip()
    if difficult.lower() not in TRUE | FALSE:
        raise DataError(f"{path}: object {number} is neither difficult nor not: {difficult[:40]!r}", "write 0 or 1")
    return _Object(name, (x1 - 1, y1 - 1, x2, y2), difficult.lower() in TRUE)
