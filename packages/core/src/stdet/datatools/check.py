"""The doctor: everything that can be known to be wrong with the data of a config before an epoch is spent on it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from stdet.data.source import DataSource
from stdet.datatools.duplicates import Prints, check_duplicates
from stdet.datatools.findings import FAULT_CHECKS, SEVERITIES, Finding, found
from stdet.datatools.fingerprints import Fingerprints, fingerprint, path_of
from stdet.datatools.splits import MAX_EXAMPLES, Columns, OpenedSplit, columns_of, open_split, splits_of
from stdet.errors import StdetError
from stdet.interfaces.reporter import Reporter

IMBALANCE = 20
"""The commonest class may have so many times the objects of the rarest one."""
EMPTY_SHARE = 0.5
"""From this share of images without objects on it is a warning."""


@dataclass(frozen=True)
class Examined:
    """A split with all that the checks need of it.

    Attributes:
        prints: None when no image was to be read.
    """

    opened: OpenedSplit
    columns: Columns
    prints: Fingerprints | None

    @property
    def name(self) -> str:
        return self.opened.name


def check_dataset(
    source: DataSource,
    splits: tuple[str, ...],
    read_images: bool,
    check_calibration: Callable[[DataSource, Prints, Reporter], Iterable[Finding]],
    reporter: Reporter,
) -> dict[str, Any]:
    """Run every check.

    Args:
        read_images: False leaves out what needs the image files: damage, sizes, duplicates, leaks, calibration.
        check_calibration: looks at the images that would be calibrated on, given the splits whose images were read.

    Returns:
        A document with all findings, the worst first, at most `MAX_EXAMPLES` places for each.
    """
    findings: list[Finding] = []
    examined: list[Examined] = []
    names = source.class_names()
    for split in splits:
        reporter.stage(f"check {split}")
        try:
            opened = open_split(source, split, names)
        except StdetError as error:
            findings.append(found("D100", split, f"can't be opened: {error.message}", 1))
            continue
        names = names or opened.dataset.class_names  # the stages give the training set's classes to the others, too
        if not len(opened.dataset):
            findings.append(found("D100", split, "holds no image", 1))
        examined.append(_examine(source, opened, read_images, reporter))
    for one in examined:
        findings += [*_faults(one), *_classes(one), *_objects(one)]
        if one.name == "train" and source.config.model.model_name is not None and len(one.columns.labels):
            from stdet.datatools.assignment import check_assignment  # needs torch, which takes 600 MiB

            findings += check_assignment(source, one.opened.dataset.class_names, one.columns)
    if examined and splits_of(source) == ("train",):
        findings.append(_unsplit(source, examined[0]))
    if read_images:
        prints = [(e.opened, e.prints) for e in examined if e.prints is not None]
        findings += check_duplicates(prints)
        findings += check_calibration(source, prints, reporter)
    findings.sort(key=lambda f: (SEVERITIES.index(f.severity), f.id))
    return {
        "format": "stdet.data-check/1",
        "counts": {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES},
        "class_names": list(names or ()),
        "splits": {
            e.name: {"images": len(e.columns.sizes), "objects": len(e.columns.labels), "images_read": read_images}
            for e in examined
        },
        "findings": [dataclasses.asdict(f) | {"examples": list(f.examples)} for f in findings],
    }


def _examine(source: DataSource, opened: OpenedSplit, read_images: bool, reporter: Reporter) -> Examined:
    columns, prints = columns_of(opened.dataset), None
    if read_images:
        workers = source.config.dataset.num_workers
        prints = fingerprint(
            opened.dataset, opened.faults, workers, lambda done, total: reporter.progress(opened.name, done, total)
        )
    return Examined(opened, columns, prints)


def _faults(one: Examined) -> Iterator[Finding]:
    """What the reader told, and what reading the images brought up."""
    log = one.opened.faults
    for kind, count in log.counts.items():
        check, severity = FAULT_CHECKS.get(kind, ("D099", "error"))
        yield Finding(check, severity, one.name, f"{count} {kind}", count, tuple(log.examples[kind]))


def _unsplit(source: DataSource, one: Examined) -> Finding:
    section = source.config.dataset
    paths = {"images": section.train_images_path, "annotations": section.train_annotations_path}
    options = [f"--{name} {shlex.quote(str(path))}" for name, path in paths.items() if path is not None]
    command = f"stdet data split --format {section.dataset_name} {' '.join(options)} --val 0.2 --test 0.1 -o split"
    message = "there are no validation images to judge a training by; divide these"
    return found("D106", one.name, message, len(one.columns.sizes), [command])


def _classes(one: Examined) -> Iterator[Finding]:
    names, columns = one.opened.dataset.class_names, one.columns
    if not len(columns.sizes):
        return
    counts = np.bincount(columns.labels[~columns.ignore], minlength=len(names))
    missing = [name for name, count in zip(names, counts, strict=True) if not count]
    if missing:
        severity = None if one.name == "train" else "info"
        message = f"{len(missing)} of {len(names)} classes have no object"
        yield found("D101", one.name, message, len(missing), missing, severity)  # type: ignore[arg-type]
    present = counts[counts > 0]
    if one.name == "train" and len(present) > 1 and present.max() > IMBALANCE * present.min():
        most, least = names[int(counts.argmax())], names[int(np.where(counts > 0, counts, counts.max() + 1).argmin())]
        ratio = present.max() / present.min()
        yield found(
            "D102",
            one.name,
            f"{most} has {ratio:.0f} times the objects of {least} ({present.max()} and {present.min()})",
            int((present * IMBALANCE < present.max()).sum()),
            [
                f"{name}: {count}"
                for name, count in zip(names, counts, strict=True)
                if 0 < count * IMBALANCE < counts.max()
            ],
            objects=dict(zip(names, counts.tolist(), strict=True)),
        )


def _objects(one: Examined) -> Iterator[Finding]:
    dataset, columns = one.opened.dataset, one.columns
    if len(columns.sizes) and columns.ignore.all():
        message = f"no image has an object that counts; {len(columns.ignore)} are marked {dataset.ignored}"
        yield found("D105", one.name, message, len(columns.sizes), severity="warning" if one.name == "train" else None)
    empty = np.flatnonzero(np.bincount(columns.image, minlength=len(columns.sizes)) == 0)
    if len(empty):
        share = len(empty) / len(columns.sizes)
        yield found(
            "D103",
            one.name,
            f"{len(empty)} images ({share:.1%}) have no object",
            len(empty),
            [str(path_of(dataset, int(i))) for i in empty[:MAX_EXAMPLES]],
            "warning" if share >= EMPTY_SHARE else "info",
        )
    rows = np.column_stack([columns.image, columns.labels, columns.boxes]).astype(np.float64)
    order = np.lexsort(rows.T)
    twice = order[1:][(np.diff(rows[order], axis=0) == 0).all(1)]
    if len(twice):
        examples = [
            f"{path_of(dataset, int(columns.image[r]))}: "
            f"{dataset.class_names[int(columns.labels[r])]} {columns.boxes[r].tolist()}"
            for r in np.sort(twice)[:MAX_EXAMPLES]
        ]
        yield found("D104", one.name, f"{len(twice)} objects repeat another one's class and box", len(twice), examples)
