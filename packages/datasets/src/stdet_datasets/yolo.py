"""YOLO text labels, as Darknet and Ultralytics read them: one file an image, `class cx cy w h` in shares of its size."""

from __future__ import annotations

import os
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from stdet.data.complaints import Complaints
from stdet.data.files import MAX_TEXT_BYTES, check_file
from stdet.data.folder import SUFFIXES, required_folder
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, Fault
from stdet_datasets.annotation_cache import Entry, cached, content_hash, digest_of
from stdet_datasets.images import measure_images, told
from stdet_datasets.packed import (
    Classes,
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

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Ten times as fast, where PyYAML was built with it."""
MAX_LIST_BYTES = 2 << 20
"""Largest class list: tens of thousands of names."""
MAX_DEPTH = 50
"""Levels of a YAML file. libyaml's composer calls itself for each, until the stack ends."""
CLASS_FILES = ("classes.txt", "data.yaml")
PARENTS = 2
"""Folders above the labels that are searched for a class list: `labels/train` is two below the data set's own."""
LARGEST_SHARE = 1.001
"""Writers round up; anything more is no share of the image's size, but pixels."""


class YoloDataset(PackedDataset):
    """The images of a folder, folders in it included, or those that lists name, and their label files. A list names images
    inside the folder, with or without suffix.

    The label file of `a/b.jpg` is `a/b.txt` in the annotations folder; without one, in the folder `labels` beside the
    folder `images` that holds the images, else beside the image. An image without a label file has no objects.

    Class numbers count the names in `classes.txt` or `data.yaml` in the labels' folder or up to two above it; there,
    `class_names` chooses and orders. Without such a file, they count `class_names`.
    """

    def __init__(self, request: DatasetRequest) -> None:
        """Raises:
        DataError: names the file, and the line that is malformed.
        """
        folder = required_folder(request.images_path, f"{request.split}_images_path")
        given = request.annotations_path
        labels = labels_folder(folder) if given is None else required_folder(given, f"{request.split}_annotations_path")
        complaints = Complaints(request)
        names = _files_below(folder, SUFFIXES)
        _match(names, labels, complaints)
        if request.split_path is not None:
            names = _listed(names, folder, request.split_path, complaints)
        files = [labels / Path(name).with_suffix(".txt") for name in names]
        sizes = measure_images(folder, names, whole=complaints.skip, complaints=complaints)
        use = np.flatnonzero((sizes > 0).all(1)).tolist()
        names, files, sizes = [names[row] for row in use], [files[row] for row in use], sizes[use]
        known, source = _known_classes(labels, request.class_names)
        classes = resolve_classes(request, known, source)
        listed = digest_of([*map(os.fsencode, names), *map(os.fsencode, files)])
        wanted = [known, classes.names, [astuple(note) for note in classes.notes]]
        key = ["yolo", listed, content_hash(files, MAX_TEXT_BYTES), digest_of([sizes.tobytes()]), *wanted]
        packed = cached(key, lambda: _pack(names, files, sizes, known, classes))
        replay(packed, complaints)
        complaints.settle()
        super().__init__(folder, packed, keep_alpha=request.keep_alpha, notes=tuple(complaints.notes))


def labels_folder(images: Path) -> Path:
    """Where the labels of the images in a folder are, when nobody says: the folder `labels` beside `images`, if there is
    one, else the same folder."""
    parts = images.absolute().parts
    if "images" in parts:
        at = len(parts) - 1 - parts[::-1].index("images")
        beside = Path(*parts[:at], "labels", *parts[at + 1 :])
        if beside.is_dir():
            return beside
    return images


def _files_below(folder: Path, suffixes: set[str]) -> list[str]:
    """Paths of files inside `folder`, with `/`, sorted."""
    found = []
    for root, folders, files in os.walk(folder):
        folders.sort()
        inner = os.path.relpath(root, folder).replace(os.sep, "/")
        prefix = "" if inner == "." else f"{inner}/"
        found += [prefix + name for name in files if os.path.splitext(name)[1].lower() in suffixes]  # noqa: PTH122
    return sorted(found)


def _listed(names: list[str], folder: Path, lists: Path | tuple[Path, ...], complaints: Complaints) -> list[str]:
    """Those of `names` that split lists name, in the lists' order."""
    by_stem = {os.path.splitext(name)[0]: name for name in names}  # noqa: PTH122
    there, found = set(names), dict[str, None]()
    for path in lists if isinstance(lists, tuple) else (lists,):
        for line in listed_names(path):
            name = line if line in there else by_stem.get(line)
            if name is None:
                complaints.add("missing images", f"{absent(folder / line)}, named in {path}")
            elif name in found:
                raise DataError(f"the split lists name {name} twice", "an image may be there once only")
            else:
                found[name] = None
    return list(found)


def _match(names: list[str], labels: Path, complaints: Complaints) -> None:
    """Complain of label files without an image, and of images that would share one."""
    stems: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(name)[0]  # noqa: PTH122
        if stem in stems:
            complaints.add("images that share a label file", f"{stems[stem]} and {name}")
        stems[stem] = name
    for name in _files_below(labels, {".txt"}):
        if name not in CLASS_FILES and name.removesuffix(".txt") not in stems:
            complaints.add("label files without an image", str(labels / name))


def _known_classes(labels: Path, wanted: tuple[str, ...] | None) -> tuple[list[str], str]:
    """The names that class numbers count, and where they are from.

    Raises:
        DataError: nobody tells them, or the file that does is unusable.
    """
    folder = labels.absolute()
    for place in (folder, *list(folder.parents)[:PARENTS]):
        for path in (place / name for name in CLASS_FILES):
            if path.is_file():
                return _class_list(path), str(path)
    if wanted is None:
        raise DataError(
            f"nothing tells the classes of the labels in {labels}",
            f"set dataset.class_names, or put a {' or '.join(CLASS_FILES)} there",
        )
    return list(wanted), "dataset.class_names"


def _class_list(path: Path) -> list[str]:
    """Raises:
    DataError: no list of names.
    """
    check_file(path, MAX_LIST_BYTES)
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = _yaml_names(text) if path.suffix == ".yaml" else [line.strip() for line in text.split("\n")]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"cannot read the class list {path}: {error}", "mend or replace the file") from error
    if found is None:
        raise DataError(f"{path} has no list of `names`", "names: [first, second], or numbers from 0 to names")
    while found and not found[-1]:
        found.pop()  # the ends of lines at the end of the file
    if not found or "" in found:
        raise DataError(f"the class list {path} is empty, or has an empty line", "mend the list")
    return found


def _yaml_names(text: str) -> list[str] | None:
    """The top `names` of a YAML file. Nothing is built of the rest, so that aliases and merge keys can't unfold."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    names = _entries(yaml.compose(text, Loader=LOADER)).get("names")
    values = names.value if isinstance(names, yaml.SequenceNode) else []
    if isinstance(names, yaml.MappingNode):
        numbered = _entries(names)
        values = [numbered.get(str(number)) for number in range(len(names.value))]
    if not values or not all(isinstance(v, yaml.ScalarNode) and not v.tag.endswith(":null") for v in values):
        return None
    return [value.value.strip() for value in values]


def _entries(node: yaml.Node | None) -> dict[str, yaml.Node]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}


def _pack(names: list[str], files: list[Path], sizes: np.ndarray, known: list[str], classes: Classes) -> Entry:
    """Read the label file of each image; an image whose file is unusable is left out."""
    tables, rows, faults = [], [], []
    for row, path in enumerate(told(files, "reading labels")):
        table = _read(path, len(known))
        faults += table.faults
        if table.usable:
            tables.append(table.rows)
            rows.append(row)
    names, sizes = [names[row] for row in rows], sizes[rows]
    owner = np.repeat(np.arange(len(tables)), [len(own) for own in tables])
    lines = np.array([line for own in tables for line in own], np.float64).reshape(-1, 5)
    labels = np.array([classes.labels.get(name, -1) for name in known], np.int32)
    labels = labels[lines[:, 0].astype(np.int64)]
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is no usable box
        corners = np.hstack([lines[:, 1:3] - lines[:, 3:] / 2, lines[:, 1:3] + lines[:, 3:] / 2])
        boxes, with_area, sticks_out = clean_boxes(corners * sizes[owner][:, [1, 0, 1, 0]], sizes[owner])
    bad = np.flatnonzero((labels >= 0) & ~with_area)
    if len(bad):
        faults.append(Fault("boxes outside the image or without area", names[owner[bad[0]]], len(bad)))
    notes = notes_on(labels < 0, (labels >= 0) & sticks_out, lambda row: names[owner[row]])
    objects = Objects(boxes, labels, np.zeros(len(labels), bool), (boxes[:, 2:] - boxes[:, :2]).prod(1))
    usable = np.flatnonzero((labels >= 0) & with_area)
    return pack(
        classes.names,
        names,
        np.arange(len(names)),
        sizes,
        owner[usable],
        objects[usable],
        faults,
        [*classes.notes, *notes],
    )


class _Labels(NamedTuple):
    """Class number, cx, cy, w, h of each line; what is wrong with other lines; whether the file can be used at all."""

    rows: list[tuple[float, ...]]
    faults: list[Fault]
    usable: bool = True


def _read(path: Path, num_classes: int) -> _Labels:
    try:
        check_file(path)
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        return _Labels([], [])
    except DataError as error:
        return _Labels([], [Fault("unusable annotation files", error.message)], usable=False)
    except (OSError, UnicodeDecodeError) as error:
        return _Labels([], [Fault("unusable annotation files", f"cannot read {path}: {error}")], usable=False)
    found = _Labels([], [])
    for number, line in enumerate(lines, 1):
        if words := line.split():
            try:
                found.rows.append(_box(words, num_classes))
            except ValueError as error:
                found.faults.append(Fault("unusable label lines", f"{path}:{number}: {error}"))
    return found


def _box(words: list[str], num_classes: int) -> tuple[float, ...]:
    """Raises:
    ValueError: the line is no box; says why.
    """
    if len(words) > 5:
        kind = "a polygon" if len(words) % 2 else "more than a box"
        raise ValueError(f"{len(words)} values are {kind}; a box is `class cx cy w h`")
    if len(words) < 5:
        raise ValueError(f"{len(words)} values are too few; a box is `class cx cy w h`")
    if not (words[0].isascii() and words[0].isdigit() and len(words[0]) < 10):
        raise ValueError(f"the class must be a number from 0 on, not {words[0][:40]!r}")
    if int(words[0]) >= num_classes:
        raise ValueError(f"class {words[0]}, but there are {num_classes} classes, from 0 on")
    try:
        values = [float(word) for word in words[1:]]
    except ValueError:
        raise ValueError(f"{' '.join(words[1:])[:80]!r} aren't four numbers") from None
    if max(values) > LARGEST_SHARE:
        raise ValueError(f"{max(values):g} is no share of the image's size; pixels must be divided by it")
    return (int(words[0]), *values)
