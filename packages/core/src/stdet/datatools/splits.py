"""Opening the splits of a config with everything that is wrong with them at hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stdet.data.source import DataSource
from stdet.interfaces.dataset import DetectionDataset, Fault

SPLITS = ("train", "val", "test")
MAX_EXAMPLES = 1000
"""Places that are kept of one kind of fault: a set whose images are all missing must not fill the memory."""


@dataclass
class FaultLog:
    """Faults by kind: how many, and where the first `MAX_EXAMPLES` are."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        self.counts[fault.kind] = self.counts.get(fault.kind, 0) + fault.count
        examples = self.examples.setdefault(fault.kind, [])
        if len(examples) < MAX_EXAMPLES:
            examples.append(fault.where)

    def summary(self, without: frozenset[str] = frozenset()) -> str:
        """One line; empty when there is nothing but kinds of `without`."""
        kinds = [kind for kind in self.counts if kind not in without]
        return "; ".join(f"{self.counts[kind]} {kind} (first: {self.examples[kind][0]})" for kind in kinds)


@dataclass(frozen=True)
class OpenedSplit:
    """A split and what its reader complained of."""

    name: str
    dataset: DetectionDataset
    faults: FaultLog


def splits_of(source: DataSource) -> tuple[str, ...]:
    """The splits that the config names; all where it names no path at all, as for generated sets."""
    section = source.config.dataset
    keys = ("images_path", "annotations_path", "split")
    named = tuple(s for s in SPLITS if any(getattr(section, f"{s}_{key}") is not None for key in keys))
    return named or SPLITS


def open_split(source: DataSource, split: str, class_names: tuple[str, ...] | None) -> OpenedSplit:
    """Raises:
    StdetError: the split can't be opened at all.
    """
    faults = FaultLog()
    return OpenedSplit(split, source.dataset(split, class_names, faults.add), faults)


def open_with_all_classes(source: DataSource, splits: tuple[str, ...]) -> list[OpenedSplit]:
    """The splits with one class list: the config's, else every class that any of them has.

    Raises:
        StdetError: a split can't be opened.
    """
    names = source.class_names()
    opened = [open_split(source, split, names) for split in splits]
    every = tuple(dict.fromkeys(name for o in opened for name in o.dataset.class_names))
    return [o if o.dataset.class_names == every else open_split(source, o.name, every) for o in opened]


@dataclass(frozen=True)
class Columns:
    """All objects of a split, row by row, and its images.

    Attributes:
        boxes: float32 (N, 4), xyxy, pixels of the image.
        labels: int64 (N,); ignore: bool (N,); areas: float32 (N,), pixels^2.
        image: int32 (N,), index of the object's image in the data set.
        sizes: int32 (I, 2), (height, width) of the images.
    """

    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    areas: np.ndarray
    image: np.ndarray
    sizes: np.ndarray

    @property
    def per_image(self) -> np.ndarray:
        """int64 (I,): objects in each image, those to ignore left out."""
        return np.bincount(self.image[~self.ignore], minlength=len(self.sizes))


BLOCK = 4096
"""Images whose small arrays are joined into one at a time."""


def columns_of(dataset: DetectionDataset) -> Columns:
    """Read every annotation once; no image is decoded."""
    blocks: list[list[np.ndarray]] = []
    sizes = np.zeros((len(dataset), 2), np.int32)
    for first in range(0, len(dataset), BLOCK):
        block = []
        for index in range(first, min(first + BLOCK, len(dataset))):
            a = dataset.annotation(index)
            sizes[index] = a.height, a.width
            if len(a.labels):
                block.append((a.boxes, a.labels, a.ignore, a.areas, np.full(len(a.labels), index, np.int32)))
        if block:
            blocks.append([np.concatenate(column) for column in zip(*block, strict=True)])
    empty = [np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, np.float32)]
    columns = zip([*empty, np.zeros(0, np.int32)], *blocks, strict=True)
    boxes, labels, ignore, areas, image = (np.concatenate(column) for column in columns)
    return Columns(boxes, labels, ignore, areas, image, sizes)
