"""Which files of a folder are a data set of a format: what people's folders look like, told from names and first lines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from stdet.data.folder import SUFFIXES
from stdet.errors import DataError
from stdet_datasets.yolo import labels_folder

DEPTH = 5
"""Folders below the one that is looked at."""
WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What people call the sides of a split."""
LOOKED_AT = 5
"""Images whose files are looked for."""
LARGEST_JSON = 2 << 30
"""Bytes; what is larger is not opened to see what it is."""

Keys = Mapping[str, Any]
"""Keys of the `dataset` section."""


class Tree:
    """A folder and what is in it, hidden things and links to folders left out.

    Attributes:
        folders: each folder with its files' names, sorted; the folder itself first.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders: dict[Path, list[str]] = {}
        for place, below, names in os.walk(root):
            deep = len(Path(place).relative_to(root).parts) >= DEPTH
            below[:] = [] if deep else sorted(name for name in below if not name.startswith("."))
            self.folders[Path(place)] = sorted(name for name in names if not name.startswith("."))

    def with_suffix(self, *suffixes: str) -> dict[Path, list[str]]:
        """The folders that hold such files, with those files' names."""
        found = {f: [n for n in names if Path(n).suffix.lower() in suffixes] for f, names in self.folders.items()}
        return {folder: names for folder, names in found.items() if names}

    @cached_property
    def images(self) -> dict[Path, list[str]]:
        return self.with_suffix(*SUFFIXES)

    def side(self, path: Path) -> str | None:
        """The side of a split that a file or folder is called after: the last such word of its name inside the tree."""
        words = re.findall("[a-z]+", str(path.relative_to(self.root)).lower())
        return next((WORDS[word] for word in reversed(words) if word in WORDS), None)

    def home(self, names: Iterable[str], start: Path) -> Path | None:
        """The folder that holds most of the images `names`; of several that do, the nearest to `start` of its side."""
        wanted = list(names)[:LOOKED_AT]

        def rank(folder: Path) -> tuple[int, bool, int, str]:
            there = sum((folder / name).is_file() for name in wanted)
            apart = len(Path(os.path.relpath(folder, start)).parts)
            return -there, self.side(folder) != self.side(start), apart, str(folder)

        best = min(self.folders, key=rank, default=None)
        return best if best is not None and rank(best)[0] < 0 else None


def _one_each(tree: Tree, found: Iterable[tuple[Path, Path]]) -> dict[str, Any]:
    """The keys for pairs of images and annotations, each of the side that it is called after, else `train`.

    Raises:
        DataError: two are of one side.
    """
    keys: dict[str, Any] = {}
    for images, boxes in found:
        side = tree.side(boxes) or tree.side(images) or "train"
        other = keys.get(f"{side}_annotations_path")
        if other is not None:
            raise DataError(
                f"{other} and {boxes} would both be the {side} set", "name one by --images and --annotations"
            )
        keys |= {f"{side}_images_path": images, f"{side}_annotations_path": boxes}
    return keys


def find_voc(folder: Path) -> Keys:
    """VOC's own layout with lists, else XML files and the folder that has images of their names."""
    tree = Tree(folder)
    if lists := _voc_lists(tree):
        return lists
    found = []
    for place, names in tree.with_suffix(".xml").items():
        if b"<annotation" not in _beginning(place / names[0]):
            continue
        stems = {Path(name).stem for name in names[:LOOKED_AT]}
        have = [f for f, own in tree.images.items() if stems & {Path(name).stem for name in own}]
        images = [name for f in have for name in tree.images[f] if Path(name).stem in stems]
        if (home := tree.home(images, place)) is not None:
            found.append((home, place))
    return _one_each(tree, found)


def _voc_lists(tree: Tree) -> dict[str, Any]:
    """Lists in `<year>/ImageSets/Main`; a training set that has no list of its own is `trainval`."""
    years = [place.parents[1] for place in tree.folders if place.parts[-2:] == ("ImageSets", "Main")]
    named = {
        side: [path for year in years if (path := year / "ImageSets" / "Main" / f"{name}.txt").is_file()]
        for side, name in (("train", "train"), ("both", "trainval"), ("val", "val"), ("test", "test"))
    }
    both = named.pop("both")
    named["train"] = named["train"] or both
    if not named["train"]:
        return {}
    keys: dict[str, Any] = {}
    for side, lists in named.items():
        if lists:
            keys[f"{side}_split"] = lists if len(lists) > 1 else lists[0]
            if len(years) == 1:
                keys[f"{side}_images_path"] = years[0] / "JPEGImages"
                keys[f"{side}_annotations_path"] = years[0] / "Annotations"
    return keys


class _Named(msgspec.Struct, gc=False):
    file_name: str | int


class _Peek(msgspec.Struct, gc=False):
    images: list[_Named]
    annotations: msgspec.Raw
    categories: msgspec.Raw


def find_coco(folder: Path) -> Keys:
    """JSON files with images, annotations and categories, and the folder that holds those images.

    Beside files of several kinds, as COCO has them (`person_keypoints_…`), those called `instances…` count.
    """
    tree = Tree(folder)
    found = []
    for place, names in tree.with_suffix(".json").items():
        for path in (place / name for name in names):
            images = _coco_images(path)
            if images and (home := tree.home(images, path)) is not None:
                found.append((home, path))
    instances = [pair for pair in found if pair[1].name.startswith("instances")]
    return _one_each(tree, instances or found)


def _coco_images(path: Path) -> list[str]:
    """The image names of a COCO file; none of any other JSON."""
    try:
        if path.stat().st_size > LARGEST_JSON or not path.is_file():
            return []
        return [str(image.file_name) for image in msgspec.json.decode(path.read_bytes(), type=_Peek).images]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []


_LABEL = re.compile(rb"\s*\d+(\s+[-+.\deE]+){4}\s*(\n|$)")


def find_yolo(folder: Path) -> Keys:
    """Images whose label files lie beside them or in the parallel folder `labels`."""
    tree = Tree(folder)
    sides: dict[str, list[Path]] = {}
    for place, names in tree.images.items():
        labels = labels_folder(place)
        files = [labels / f"{Path(name).stem}.txt" for name in names]
        first = next((path for path in files if path.is_file() and _beginning(path).strip()), None)
        if first is not None and _LABEL.match(_beginning(first)):
            sides.setdefault(tree.side(place) or "train", []).append(place)
    return {f"{side}_images_path": Path(os.path.commonpath(places)) for side, places in sides.items()}


def _beginning(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""
