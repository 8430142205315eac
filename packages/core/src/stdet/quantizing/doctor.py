"""The calibration doctor: what can be known of the images before the model sees them. One for all who ask; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stdet.config import Config, given_preprocess, preprocess_of
from stdet.data.source import DataSource
from stdet.datatools.fingerprints import Fingerprints, among, equal_groups, fingerprint, look_alikes, path_of
from stdet.datatools.splits import MAX_EXAMPLES, FaultLog, open_split, splits_of
from stdet.errors import DataError, StdetError
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.deploy import CalibrationCheck
from stdet.interfaces.reporter import Reporter
from stdet.quantizing.choice import Chosen
from stdet.structures import Preprocess

FEW_IMAGES = 50
"""Below this number the ranges of activations depend on which images were drawn."""
SHOWN = 5
"""Names in a sentence."""
NO_FILES = "generated images have no files to compare"


@dataclass(frozen=True)
class Check:
    """What was found out about calibration images.

    Attributes:
        name: `size`, `duplicates`, `classes`, `preprocessing` or `overlap`.
        verdict: `error` when they must not be used; `unknown` when it can't be told.
        finding: one line for people.
        hint: what to do about an error.
        count: of what is wrong.
        examples: where, the first ones.
    """

    name: str
    verdict: Literal["ok", "warning", "error", "unknown"]
    finding: str
    hint: str = ""
    count: int = 0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Printed:
    """Images, and what tells those of them apart that could be read."""

    images: DetectionDataset
    prints: Fingerprints


def examine(
    config: Config,
    calibration: Chosen,
    own: Fingerprints,
    class_names: tuple[str, ...],
    trained_with: Preprocess | None,
    evaluation: Printed | None,
    annotated: Sequence[Printed],
) -> tuple[Check, ...]:
    """Every check.

    Args:
        own: of `calibration`.
        class_names: that the model knows; empty where nobody says them.
        trained_with: what the model's file says of its preprocessing, None where it says nothing.
        evaluation: the images that the model will be judged by, None where nobody knows them.
        annotated: images whose classes are known; tell those of equal files in a folder without annotations.
    """
    return (
        _size(calibration),
        _duplicates(calibration, own),
        _classes(calibration, own, class_names, annotated),
        _preprocessing(config, trained_with),
        _overlap(calibration, own, evaluation, config.quantization.allow_overlap),
    )


def examine_files(
    source: DataSource,
    calibration: Chosen,
    class_names: tuple[str, ...],
    trained_with: Preprocess | None,
    evaluation: DetectionDataset | None,
    reporter: Reporter,
) -> tuple[Check, ...]:
    """As `examine`, of images that nobody has read yet."""

    def printed(images: DetectionDataset, label: str) -> Printed:
        workers = source.config.dataset.num_workers
        progress = lambda done, total: reporter.progress(label, done, total)  # noqa: E731
        return Printed(images, fingerprint(images, FaultLog(), workers, progress))

    own = printed(calibration, "check calibration images").prints
    judges = printed(evaluation, "check evaluation images") if evaluation is not None else None
    annotated = [
        printed(images, "look for the classes of calibration images")
        for images in (
            () if calibration.annotated or not class_names else _of_equal_size(source, calibration, class_names)
        )
    ]
    return examine(source.config, calibration, own, class_names, trained_with, judges, annotated)


def overlap_of_files(
    source: DataSource, calibration: Chosen, evaluation: DetectionDataset, reporter: Reporter
) -> Check:
    """The check `overlap` alone. Only files as long as one of the other side are read: no others can be equal."""
    sides = (calibration, Chosen(evaluation, np.arange(len(evaluation)), "evaluation"))
    lengths = [[_length(side, index) for index in range(len(side))] for side in sides]
    both = (set(lengths[0]) & set(lengths[1])) - {None}
    alike = [
        Chosen(side, np.array([i for i, length in enumerate(own) if length in both], np.int64), side.source)
        for side, own in zip(sides, lengths, strict=True)
    ]
    workers = source.config.dataset.num_workers
    own, theirs = (
        fingerprint(side, FaultLog(), workers, lambda done, total: reporter.progress("check overlap", done, total))
        for side in alike
    )
    if not any(length for side in lengths for length in side):
        return Check("overlap", "unknown", NO_FILES)
    if not len(own.index) or not len(theirs.index):
        return Check("overlap", "ok", "no calibration image is an evaluation image")
    allowed = source.config.quantization.allow_overlap
    return _overlap(alike[0], own, Printed(alike[1], theirs), allowed, len(calibration))


def approved(checks: Sequence[Check]) -> tuple[CalibrationCheck, ...]:
    """The checks as the record of a quantization has them.

    Raises:
        DataError: one of them is an error.
    """
    for check in checks:
        if check.verdict == "error":
            raise DataError(check.finding, check.hint)
    return tuple(CalibrationCheck(c.name, c.verdict, c.finding) for c in checks if c.verdict != "error")


def _of_equal_size(source: DataSource, calibration: Chosen, class_names: tuple[str, ...]) -> list[Chosen]:
    """The annotated images whose files are as long as one of `calibration`: no others can be equal to any.

    Splits that can't be opened know no classes; whether that is a fault is for the stages that need them to say.
    """
    lengths = {_length(calibration, index) for index in range(len(calibration))} - {None}
    found = []
    for split in splits_of(source):
        try:
            images = open_split(source, split, class_names or None).dataset
        except StdetError:
            continue
        alike = [index for index in range(len(images)) if _length(images, index) in lengths]
        found.append(Chosen(images, np.array(alike, np.int64), split))
    return found


def _length(images: DetectionDataset, index: int) -> int | None:
    """Bytes of an image's file, None where there is none."""
    path = images.annotation(index).path
    try:
        return path.stat().st_size if path else None
    except OSError:
        return None


def _size(calibration: Chosen) -> Check:
    count = len(calibration)
    few = count < FEW_IMAGES
    text = f"{count} images of {calibration.source}" + (f"; {FEW_IMAGES} or more are usual" if few else "")
    return Check("size", "warning" if few else "ok", text, count=count)


def _duplicates(calibration: Chosen, own: Fingerprints) -> Check:
    if not len(own.index):
        return Check("duplicates", "unknown", NO_FILES)
    copies = [(int(group[0]), int(row)) for group in equal_groups(own.digests) for row in group[1:]]
    pairs, _ = look_alikes(own.looks, own.plain)
    alike = pairs[(own.digests[pairs[:, 0]] != own.digests[pairs[:, 1]]).any(1)].tolist()
    if not copies and not alike:
        return Check("duplicates", "ok", "no image is there twice")

    def place(row: int) -> str:
        return str(path_of(calibration, int(own.index[row])))

    text = f"{len(copies)} copies of images, {len(alike)} pairs that look alike"
    pairs_shown = [("=", pair) for pair in copies[:MAX_EXAMPLES]] + [("~", pair) for pair in alike[:MAX_EXAMPLES]]
    examples = tuple(f"{place(a)} {sign} {place(b)}" for sign, (a, b) in pairs_shown[:MAX_EXAMPLES])
    return Check("duplicates", "warning", text, "", len(copies) + len(alike), examples)


def _classes(
    calibration: Chosen, own: Fingerprints, class_names: tuple[str, ...], annotated: Sequence[Printed]
) -> Check:
    if not class_names:
        return Check("classes", "unknown", "nothing names the model's classes")
    if not class_names:
        return Check("classes", "unknown", "nobody says which classes the model knows", count=len(calibration))
    known = [(calibration, np.arange(len(calibration)))] if calibration.annotated else []
    if not calibration.annotated:
        known = [(a.images, a.prints.index[among(a.prints.digests, own.digests)]) for a in annotated]  # type: ignore[misc]
    if not sum(len(indices) for _, indices in known):
        text = "the images have no annotations, and no annotated image is one of them"
        return Check("classes", "unknown", text, count=len(calibration))
    shown = {
        images.class_names[int(label)]
        for images, indices in known
        for index in indices.tolist()
        for label in images.annotation(index).labels
    }
    missing = tuple(name for name in class_names if name not in shown)
    if not missing:
        return Check("classes", "ok", f"all {len(class_names)} classes are shown")
    text = f"{len(missing)} of {len(class_names)} classes are on no image: {_some(missing)}"
    return Check("classes", "warning", text, "", len(missing), missing)


def _preprocessing(config: Config, trained_with: Preprocess | None) -> Check:
    if trained_with is None:
        return Check("preprocessing", "unknown", "the file says nothing about its preprocessing; the config's is taken")
    if config.family is not None:
        mine = preprocess_of(config)
        wrong = tuple(
            f"{n} is {getattr(mine, n)!r}, the model's {getattr(trained_with, n)!r}"
            for n in given_preprocess(config)
            if getattr(mine, n) != getattr(trained_with, n)
        )
        if wrong:
            text = f"the config's preprocessing isn't the one that the model was trained with: {'; '.join(wrong)}"
            hint = "leave these keys out of preprocessing and model.input_shape: the model's file says what it wants"
            return Check("preprocessing", "error", text, hint, len(wrong), wrong)
    return Check("preprocessing", "ok", "as in training: the model's file says it")


def _overlap(
    calibration: Chosen, own: Fingerprints, evaluation: Printed | None, allowed: bool, total: int | None = None
) -> Check:
    """Args:
    total: images that are calibrated on, where `calibration` is a part of them.
    """
    if evaluation is None:
        return Check("overlap", "unknown", "the config names no evaluation images")
    if not len(own.index) or not len(evaluation.prints.index):
        return Check("overlap", "unknown", NO_FILES)
    shared = own.index[among(own.digests, evaluation.prints.digests)].tolist()
    if not shared:
        return Check("overlap", "ok", "no calibration image is an evaluation image")
    places = tuple(str(path_of(calibration, index)) for index in shared)
    names = _some([Path(place).name for place in places])
    return Check(
        "overlap",
        "warning" if allowed else "error",
        f"{len(shared)} of {len(calibration) if total is None else total} calibration images are evaluation images: {names}",
        ""
        if allowed
        else "their score would flatter the int8 model: calibrate on training images (dataset.quantization_path), or set "
        "quantization.allow_overlap: True",
        len(shared),
        places[:MAX_EXAMPLES],
    )


def _some(names: Sequence[str]) -> str:
    """The first few, in a sentence."""
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
