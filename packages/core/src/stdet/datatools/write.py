"""Writing data sets: converted, cut down, or made up. The formats' writers come from the registry."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from stdet.artifacts import atomic_folder, write_text
from stdet.data.source import DataSource
from stdet.datatools.findings import HARMLESS_FAULTS
from stdet.datatools.splits import OpenedSplit, open_with_all_classes
from stdet.errors import DataError
from stdet.evaluation.plots import save_image
from stdet.interfaces.dataset import DatasetWriter, DetectionDataset, WriteRequest, WrittenSplit
from stdet.interfaces.reporter import Reporter
from stdet.structures import Annotation

ImageFiles = Literal["reference", "link", "copy"]
REPORT_EVERY = 500
"""Images between two lines of progress."""


@dataclass(frozen=True)
class Selection:
    """Which images and objects are wanted.

    Attributes:
        classes: only these, in this label order; None takes all.
        count, fraction: how many images of each split, drawn from those that have a wanted object; None takes all.
        seed: of the draw.
        keep_empty: with `classes`, keep images that have no object of them.
    """

    classes: tuple[str, ...] | None = None
    count: int | None = None
    fraction: float | None = None
    seed: int = 0
    keep_empty: bool = False

    def __post_init__(self) -> None:
        if self.count is not None and self.fraction is not None:
            raise DataError("a subset has a number of images or a fraction of them, not both")
        if self.count is not None and self.count < 1:
            raise DataError(f"a subset of {self.count} images is none", "ask for at least 1")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise DataError(f"a fraction of {self.fraction} is not above 0 and at most 1")


@dataclass(frozen=True)
class Output:
    """Where a data set goes.

    Attributes:
        folder: must not exist yet.
        to: registered format.
        image_files: `reference` leaves the images where they are, `link` makes hard links, `copy` copies. Generated
            images are always written.
    """

    folder: Path
    to: str
    image_files: ImageFiles = "reference"


def write_dataset(
    source: DataSource, splits: tuple[str, ...], selection: Selection, output: Output, reporter: Reporter
) -> dict[str, Any]:
    """Write the chosen part of the splits, and `dataset.yaml`, a config's section that names what was written.

    Returns:
        What was written, JSON-able.

    Raises:
        StdetError: the source can't be read, or has faults and `dataset.on_bad_data` isn't `skip`; the format can't hold
            it; or the folder exists. Nothing is left behind then.
    """
    make = source.catalogue.writer(output.to)
    absent = frozenset({"missing images"} if output.image_files == "reference" else ())
    document: dict[str, Any] = {"format": "stdet.data-written/1", "folder": str(output.folder), "splits": {}}
    with atomic_folder(output.folder) as folder:
        section: dict[str, Any] = {"dataset_name": output.to}
        for opened in open_with_all_classes(source, splits):
            settle(source, opened, absent, reporter)
            names, labels = _labels(opened.dataset.class_names, selection.classes)
            section["class_names"] = list(names)
            copy = SplitCopy(
                opened, images_folder(source, opened), make(WriteRequest(folder, opened.name, names)), output, labels
            )
            record, keys = copy.write(_chosen(opened.dataset, labels, selection), folder, reporter)
            document["splits"][opened.name] = record
            section |= keys
        write_text(folder / "dataset.yaml", yaml.safe_dump({"dataset": section}, sort_keys=False, allow_unicode=True))
    return document | {"config": str(output.folder / "dataset.yaml"), "class_names": section["class_names"]}


def settle(source: DataSource, opened: OpenedSplit, harmless: frozenset[str], reporter: Reporter) -> None:
    """Stop at faults, or say what is left out, as the config wants it.

    Args:
        harmless: kinds that are neither, beside `HARMLESS_FAULTS`: images that are missing, where none is read.
    """
    if told := opened.faults.summary(frozenset(opened.faults.counts) - HARMLESS_FAULTS):
        reporter.note(f"{opened.name} set: {told}")
    text = opened.faults.summary(harmless | HARMLESS_FAULTS)
    if text and source.config.dataset.on_bad_data == "error":
        raise DataError(f"{opened.name} set: {text}", "mend the data, or set dataset.on_bad_data=skip")
    if text:
        reporter.note(f"{opened.name} set: left out {text}")


def images_folder(source: DataSource, opened: OpenedSplit) -> Path | None:
    """What the names of the images count from; None for generated ones."""
    given: Path | None = getattr(source.config.dataset, f"{opened.name}_images_path")
    if given is not None:
        return given
    paths = (opened.dataset.annotation(i).path for i in range(len(opened.dataset)))
    folders = {str(path.parent.absolute()) for path in paths if path is not None}
    return Path(os.path.commonpath(folders)) if folders else None


def _labels(have: tuple[str, ...], wanted: tuple[str, ...] | None) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes to write, and int64 (len(have),): the new label of each old one, -1 for none."""
    names = have if wanted is None else wanted
    known, labels = set(have), {name: label for label, name in enumerate(names)}
    unknown = next((name for name in names if name not in known), None)
    if unknown is not None or len(labels) < len(names):
        fault = f"there is no class {unknown!r}" if unknown is not None else "a class is named twice"
        raise DataError(fault, f"classes of the data set: {', '.join(have)}")
    return names, np.array([labels.get(name, -1) for name in have], np.int64)


def _chosen(dataset: DetectionDataset, labels: np.ndarray, selection: Selection) -> np.ndarray:
    """Ascending indices of the images to write."""
    chosen = np.arange(len(dataset))
    if selection.classes is not None and not selection.keep_empty:
        wanted = (bool((labels[dataset.annotation(i).labels] >= 0).any()) for i in range(len(dataset)))
        chosen = np.flatnonzero(np.fromiter(wanted, bool, len(dataset)))
    count = selection.count
    if selection.fraction is not None:
        count = max(1, round(len(chosen) * selection.fraction))
    if count is not None and count < len(chosen):
        chosen = np.sort(np.random.default_rng(selection.seed).permutation(chosen)[:count])
    if not len(chosen):
        raise DataError("no image is left to write", "choose other classes, or keep images without them")
    return chosen


@dataclass
class SplitCopy:
    """One split on its way from its reader to its writer."""

    source: OpenedSplit
    images: Path | None
    writer: DatasetWriter
    output: Output
    labels: np.ndarray

    def write(self, chosen: np.ndarray, folder: Path, reporter: Reporter) -> tuple[dict[str, Any], dict[str, str]]:
        """The record of what was written, and the config keys that read it."""
        dataset, split = self.source.dataset, self.source.name
        boxes: Counter[str] = Counter()
        place: Callable[[int, Annotation], str] = self._reference
        images = self.images
        if self.output.image_files != "reference" or dataset.annotation(int(chosen[0])).path is None:
            place = self._transfer
            self.writer.images_folder.mkdir(parents=True, exist_ok=True)
            images = self.output.folder / self.writer.images_folder.relative_to(folder)
        elif not self.writer.lists_images:
            raise DataError(
                f"{self.output.to} has no list of images: it takes every image of a folder, so they must come along",
                "use --image-files link or --image-files copy",
            )
        for done, index in enumerate(chosen.tolist(), 1):
            a = _relabelled(dataset.annotation(index), self.labels)
            self.writer.add(place(index, a), a)
            boxes.update(boxes=len(a.labels), ignored=int(a.ignore.sum()))
            if done % REPORT_EVERY == 0 or done == len(chosen):
                reporter.progress(f"write ({split})", done, len(chosen))
        written = self.writer.finish()
        for what, count in written.lost.items():
            reporter.note(f"{split} set: lost {count} {what}")
        keys = self._keys(written, folder, images)
        record = {"images": len(chosen), "boxes": boxes["boxes"], "ignored": boxes["ignored"], "lost": written.lost}
        return record | keys, {f"{split}_{key}": value for key, value in keys.items()}

    def _keys(self, written: WrittenSplit, folder: Path, images: Path | None) -> dict[str, str]:
        final = self.output.folder
        keys = {
            "images_path": str(images),
            "annotations_path": str(final / written.annotations_path.relative_to(folder)),
        }
        if written.split_path is not None:
            keys["split"] = str(final / written.split_path.relative_to(folder))
        return keys

    def _reference(self, index: int, annotation: Annotation) -> str:
        return self._name(annotation)

    def _name(self, annotation: Annotation) -> str:
        """Of the image, inside its folder."""
        assert annotation.path is not None
        assert self.images is not None
        try:
            name = annotation.path.absolute().relative_to(self.images.absolute()).as_posix()
            name.encode()
        except ValueError as error:
            raise DataError(f"{annotation.path!a} can't be named: {error}", "rename it, or copy the images") from error
        return name

    def _transfer(self, index: int, annotation: Annotation) -> str:
        """Copy, link or draw the image; its name there."""
        if annotation.path is None:
            name = f"{self.source.name}_{annotation.image_id:06d}.png"
            save_image(self.writer.images_folder / name, self.source.dataset.read_image(index))
            return name
        name = self._name(annotation).replace("/", "_")
        target = self.writer.images_folder / name
        if target.exists():
            raise DataError(f"{annotation.path} and another image would both be {name}", "rename one of them")
        try:
            if self.output.image_files == "link":
                os.link(annotation.path.resolve(), target)
            else:
                shutil.copyfile(annotation.path, target)
        except OSError as error:
            hint = (
                "use --image-files copy" if self.output.image_files == "link" else "check the path and the free space"
            )
            raise DataError(f"cannot {self.output.image_files} {annotation.path}: {error.strerror}", hint) from error
        return name


def _relabelled(a: Annotation, labels: np.ndarray) -> Annotation:
    new = labels[a.labels]
    keep = new >= 0
    return replace(a, boxes=a.boxes[keep], labels=new[keep], ignore=a.ignore[keep], areas=a.areas[keep])
