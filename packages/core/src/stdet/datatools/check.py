"""The doctor: everything that can be known to be wrong with the data of a config before an epoch is spent on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stdet.build import Builder
from stdet.data.preprocess import fitted
from stdet.datatools.calibration import check_calibration
from stdet.datatools.duplicates import check_duplicates
from stdet.datatools.findings import FAULT_CHECKS, SEVERITIES, Finding, found
from stdet.datatools.fingerprints import Fingerprints, fingerprint
from stdet.datatools.sources import MAX_EXAMPLES, Columns, OpenedSplit, columns_of, open_split
from stdet.errors import StdetError
from stdet.interfaces.reporter import Reporter

IMBALANCE = 20
"""The commonest class may have so many times the objects of the rarest one."""
EMPTY_SHARE = 0.5
"""From this share of images without objects on it is a warning."""
SMALL_SHARE = 0.05
"""From this share of the objects of a class on, being too small is a warning."""
SMALL_SAMPLE = 20_000
"""Objects that are compared with a model's anchors; more of them are sampled."""


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


def check_dataset(builder: Builder, splits: tuple[str, ...], read_images: bool, reporter: Reporter) -> dict[str, Any]:
    """Run every check.

    Args:
        read_images: False leaves out what needs the image files: damage, sizes, duplicates, leaks.

    Returns:
        A document with all findings, the worst first, at most `MAX_EXAMPLES` places for each.
    """
    findings: list[Finding] = []
    examined: list[Examined] = []
    names = builder.class_names()
    for split in splits:
        reporter.stage(f"check {split}")
        try:
            opened = open_split(builder, split, names)
        except StdetError as error:
            findings.append(found("D100", split, f"can't be opened: {error.message}", 1))
            continue
        names = names or opened.dataset.class_names  # the stages give the training set's classes to the others, too
        if not len(opened.dataset):
            findings.append(found("D100", split, "holds no image", 1))
        examined.append(_examine(builder, opened, read_images, reporter))
    for one in examined:
        findings += [*_faults(one), *_classes(one), *_objects(one), *_small_objects(builder, one)]
    if read_images:
        prints = [(e.opened, e.prints) for e in examined if e.prints is not None]
        findings += check_duplicates(prints)
        learned = next((e for e in examined if e.name == "train"), None)
        labels = np.unique(learned.columns.labels) if learned else ()
        findings += check_calibration(builder, prints, {(names or ())[label] for label in labels}, reporter)
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


def _examine(builder: Builder, opened: OpenedSplit, read_images: bool, reporter: Reporter) -> Examined:
    columns, prints = columns_of(opened.dataset), None
    if read_images:
        workers = builder.config.dataset.num_workers
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
    empty = np.flatnonzero(np.bincount(columns.image, minlength=len(columns.sizes)) == 0)
    if len(empty):
        share = len(empty) / len(columns.sizes)
        yield found(
            "D103",
            one.name,
            f"{len(empty)} images ({share:.1%}) have no object",
            len(empty),
            [_place(dataset.annotation(int(i)).path, int(i)) for i in empty[:MAX_EXAMPLES]],
            "warning" if share >= EMPTY_SHARE else "info",
        )
    rows = np.column_stack([columns.image, columns.labels, columns.boxes]).astype(np.float64)
    order = np.lexsort(rows.T)
    twice = order[1:][(np.diff(rows[order], axis=0) == 0).all(1)]
    if len(twice):
        examples = [
            f"{_place(dataset.annotation(int(columns.image[r])).path, int(columns.image[r]))}: "
            f"{dataset.class_names[int(columns.labels[r])]} {columns.boxes[r].tolist()}"
            for r in np.sort(twice)[:MAX_EXAMPLES]
        ]
        yield found("D104", one.name, f"{len(twice)} objects repeat another one's class and box", len(twice), examples)


def _place(path: Path | None, index: int) -> str:
    return str(path) if path else f"image {index}"


def _small_objects(builder: Builder, one: Examined) -> Iterator[Finding]:
    """Training objects that are hard to assign at the model's input size, as a share of each class."""
    names, columns = one.opened.dataset.class_names, one.columns
    if one.name != "train" or builder.config.model.model_name is None or not len(columns.labels):
        return
    try:
        spec = builder.spec(names)
        detector = builder.decoder(spec)
    except StdetError as error:
        yield found("D302", one.name, error.message, 1)
        return
    detector.use_training_options(builder.config.options.training)
    rows = np.flatnonzero(~columns.ignore)
    if len(rows) > SMALL_SAMPLE:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:SMALL_SAMPLE])
    boxes = _in_input(columns, rows, spec.preprocess)
    hard = detector.hard_to_assign(torch.from_numpy(boxes)).numpy()
    if not hard.any():
        return
    labels = columns.labels[rows]
    every, small = (np.bincount(part, minlength=len(names)) for part in (labels, labels[hard]))
    shares = {name: float(s / e) for name, s, e in zip(names, small, every, strict=True) if e}
    worst = sorted(((share, name) for name, share in shares.items() if share), reverse=True)
    height, width = spec.preprocess.size
    sample = f" of a sample of {len(rows)}" if len(rows) == SMALL_SAMPLE else ""
    yield found(
        "D301",
        one.name,
        f"{int(hard.sum())} objects ({hard.mean():.1%}){sample} are too small for {spec.model_name} at {height} x {width}",
        int(hard.sum()),
        [f"{name}: {share:.1%}" for share, name in worst],
        "warning" if worst[0][0] >= SMALL_SHARE else "info",
        share_per_class=shares,
    )


def _in_input(columns: Columns, rows: np.ndarray, preprocess: Any) -> np.ndarray:
    """float32 (len(rows), 4): boxes in pixels of the network's input, cut to it."""
    sizes, kind = np.unique(columns.sizes, axis=0, return_inverse=True)
    kind = kind.ravel()[columns.image[rows]]
    boxes = np.zeros((len(rows), 4), np.float32)
    for number, (height, width) in enumerate(sizes.tolist()):
        _, geometry = fitted((height, width), preprocess)
        own = kind == number
        boxes[own] = geometry.to_input(columns.boxes[rows[own]])
    return np.clip(boxes, 0, [preprocess.width, preprocess.height] * 2).astype(np.float32)
