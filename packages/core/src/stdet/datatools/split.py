"""Splitting a data set into training, validation and test images. The images stay where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from stdet.artifacts import atomic_folder, write_json, write_text
from stdet.data.source import DataSource
from stdet.datatools.fingerprints import Fingerprints, equal_groups, fingerprint, look_alikes
from stdet.datatools.partition import joined, partition
from stdet.datatools.splits import SPLITS, Columns, OpenedSplit, columns_of, open_split, splits_of
from stdet.datatools.write import Output, SplitCopy, images_folder, settle
from stdet.errors import DataError
from stdet.interfaces.dataset import WriteRequest
from stdet.interfaces.reporter import Reporter

CROWDED_GROUP = 0.5
"""From this share of the images on, a group that stays together is worth a remark."""


@dataclass(frozen=True)
class Shares:
    """How many images the sides beside training get: a share below 1, or a number of images; 0 makes no such side."""

    val: float = 0.2
    test: float = 0.0

    def wanted(self, images: int) -> dict[str, int]:
        """Images of each side, `train` first.

        Raises:
            DataError: a number is none, or nothing is left for training.
        """
        counts = {name: _count(name, getattr(self, name), images) for name in ("val", "test")}
        if not any(counts.values()):
            raise DataError("neither validation nor test images are asked for", "for example --val 0.2 --test 0.1")
        left = images - sum(counts.values())
        if left < 1:
            asked = " and ".join(f"{count} for {name}" for name, count in counts.items() if count)
            raise DataError(f"of {images} images, {asked} leave none for training", "ask for fewer")
        return {"train": left} | {name: count for name, count in counts.items() if count}


def _count(name: str, asked: float, images: int) -> int:
    if not (0 <= asked < 1 or float(asked).is_integer()):
        raise DataError(
            f"--{name} {asked:g} is neither a share nor a number of images",
            "a share such as 0.2, or a number such as 50",
        )
    return int(asked) if asked >= 1 or asked == 0 else max(1, round(asked * images))


def split_dataset(
    source: DataSource, split: str | None, shares: Shares, seed: int, folder: Path, reporter: Reporter
) -> dict[str, Any]:
    """Divide one split of a config, stratified by class; images that are alike stay on one side.

    Lists of names are written where the format has them, else annotation files of each side, beside `dataset.yaml`, a
    config's section that names them, and `split.json`.

    Args:
        split: which; None takes the only one that the config names.
        seed: of the draw; same seed and images, same sides.
        folder: to write; must not exist yet.

    Returns:
        What was written, JSON-able.

    Raises:
        StdetError: the set is split already, has faults and `dataset.on_bad_data` isn't `skip`, or can't be divided so;
            or the folder exists. Nothing is left behind then.
    """
    with atomic_folder(folder) as temporary:
        opened = open_split(source, _only_split(source, split), source.class_names())
        sides, document = _divide(source, opened, shares, seed, reporter)
        section = _write(source, opened, sides, temporary, folder, reporter)
        write_text(
            temporary / "dataset.yaml", yaml.safe_dump({"dataset": section}, sort_keys=False, allow_unicode=True)
        )
        write_json(temporary / "split.json", document)
    return document | {"folder": str(folder), "config": str(folder / "dataset.yaml")}


def _divide(
    source: DataSource, opened: OpenedSplit, shares: Shares, seed: int, reporter: Reporter
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Ascending indices of the images of each side; and what they hold, JSON-able."""
    reporter.stage(f"read {opened.name}")
    workers = source.config.dataset.num_workers
    prints = fingerprint(
        opened.dataset, opened.faults, workers, lambda done, all_: reporter.progress("images", done, all_)
    )
    settle(source, opened, frozenset(), reporter)
    names = opened.dataset.class_names
    wanted = shares.wanted(len(prints.index))
    groups = _groups(prints, reporter)
    strata = _strata(columns_of(opened.dataset), len(names))[prints.index]
    side = partition(groups, strata, np.array(list(wanted.values())), np.random.default_rng(seed))
    sides = {name: prints.index[side == number] for number, name in enumerate(wanted)}
    largest = int(np.bincount(groups).max())
    if empty := [name for name, chosen in sides.items() if not len(chosen)]:
        raise DataError(
            f"no image is left for {' and '.join(empty)}: of {len(groups)} images, {largest} look so alike that they stay "
            "together",
            "more photographs of other scenes are needed, or fewer that repeat one",
        )
    return sides, {
        "format": "stdet.data-split/1",
        "seed": seed,
        "groups": int(groups.max()) + 1,
        "largest_group": largest,
        "class_names": list(names),
        "splits": {
            name: {
                "images": len(chosen),
                "wanted": wanted[name],
                "objects": dict(zip(names, strata[side == number].sum(0)[:-1].tolist(), strict=True)),
                "images_without_objects": int(strata[side == number, -1].sum()),
            }
            for number, (name, chosen) in enumerate(sides.items())
        },
    }


def _only_split(source: DataSource, split: str | None) -> str:
    if source.config.reader is not None and not source.config.reader.needs:
        raise DataError(
            f"{source.config.dataset.dataset_name} has every split already", "stdet data synth writes it as files"
        )
    there = splits_of(source)
    if split is None and len(there) > 1:
        raise DataError(
            f"the set is split already, in {', '.join(there)}", f"--split {there[0]} divides that one again"
        )
    return split or (there[0] if there != SPLITS else "train")


def _groups(prints: Fingerprints, reporter: Reporter) -> np.ndarray:
    """int64 (K,): images with equal bytes or looks have one group, as `data check` finds them (D201, D204)."""
    alike, left_out = look_alikes(prints.looks, prints.plain)
    equal = [np.stack([np.full(len(rows) - 1, rows[0]), rows[1:]], 1) for rows in equal_groups(prints.digests)]
    groups = joined(len(prints.index), np.concatenate([alike, *equal]))
    sizes = np.bincount(groups)
    if len(sizes) < len(groups):
        reporter.note(
            f"{len(groups)} images in {len(sizes)} groups that stay together; {sizes.max()} in the largest one"
        )
    if sizes.max() > max(1, CROWDED_GROUP * len(groups)):
        reporter.note(
            "most images look alike, as frames of one scene do: what is measured on them says little of others"
        )
    if left_out:
        reporter.note(f"{left_out} pairs of images were not compared: too many have like looks")
    return groups


def _strata(columns: Columns, num_classes: int) -> np.ndarray:
    """int64 (I, num_classes + 1): objects of each class in each image; the last column marks images without any."""
    own = ~columns.ignore
    counts = np.zeros((len(columns.sizes), num_classes + 1), np.int64)
    np.add.at(counts, (columns.image[own], columns.labels[own]), 1)
    counts[:, -1] = columns.per_image == 0
    return counts


def _write(
    source: DataSource,
    opened: OpenedSplit,
    sides: Mapping[str, np.ndarray],
    temporary: Path,
    folder: Path,
    reporter: Reporter,
) -> dict[str, Any]:
    """Write the sides into `temporary`, which will be `folder`; the `dataset` section that reads them."""
    name = str(source.config.dataset.dataset_name)
    section: dict[str, Any] = {"dataset_name": name, "class_names": list(opened.dataset.class_names)}
    reader = source.config.reader
    if reader is not None and reader.split_lists:
        return section | _write_lists(source, opened, sides, temporary, folder)
    make = source.catalogue.writer(name)
    if not make.lists_images:
        raise DataError(
            f"{name} has neither lists of images nor annotations that name them",
            "convert it first: stdet data convert --to FORMAT",
        )
    names, images = opened.dataset.class_names, images_folder(source, opened)
    for side, chosen in sides.items():
        own, writer = OpenedSplit(side, opened.dataset, opened.faults), make(WriteRequest(temporary, side, names))
        copy = SplitCopy(own, images, writer, Output(folder, name), np.arange(len(names)))
        section |= copy.write(chosen, temporary, reporter)[1]
    return section


def _write_lists(
    source: DataSource, opened: OpenedSplit, sides: Mapping[str, np.ndarray], temporary: Path, folder: Path
) -> dict[str, Any]:
    images, annotations = (
        getattr(source.config.dataset, f"{opened.name}_{what}_path") for what in ("images", "annotations")
    )
    if images is None:
        raise DataError(
            f"a list of names needs the folders that they are in, and dataset.{opened.name}_images_path is not set",
            "give --images and --annotations",
        )
    section: dict[str, Any] = {}
    for side, chosen in sides.items():
        paths = [opened.dataset.annotation(int(index)).path for index in chosen]
        names = [p.absolute().relative_to(images.absolute()).with_suffix("").as_posix() for p in paths if p is not None]
        if unfit := next((name for name in names if [name.strip()] != name.splitlines()), None):
            raise DataError(f"the image name {unfit!r} can't be a line of a list", "rename it")
        write_text(temporary / f"{side}.txt", "".join(f"{name}\n" for name in names))
        section[f"{side}_images_path"] = str(images)
        if annotations is not None:
            section[f"{side}_annotations_path"] = str(annotations)
        section[f"{side}_split"] = str(folder / f"{side}.txt")
    return section
