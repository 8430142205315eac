"""The calibration doctor: what can be known of the images before the model sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stdet.build import Builder
from stdet.config import preprocess_of
from stdet.datatools.calibration import FEW_IMAGES
from stdet.datatools.fingerprints import Fingerprints, among, equal_groups, fingerprint, look_alikes
from stdet.datatools.splits import FaultLog
from stdet.errors import DataError
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.deploy import CalibrationCheck
from stdet.interfaces.reporter import Reporter
from stdet.quantizing.images import Chosen
from stdet.structures import DetectorSpec

SHOWN = 5
NO_FILES = "generated images have no files to compare"


def examine(
    builder: Builder,
    chosen: Chosen,
    spec: DetectorSpec,
    has_metadata: bool,
    evaluation: DetectionDataset | None,
    reporter: Reporter,
) -> tuple[CalibrationCheck, ...]:
    """Everything about the images that can be known before the model sees them.

    Args:
        has_metadata: the model's file says itself how it wants its input.
        evaluation: the images that the model will be judged by, None when the config names none.

    Raises:
        DataError: calibration images are evaluation images and `quantization.allow_overlap` is off; or the config asks
            for another preprocessing than the model was trained with.
    """
    section = builder.config.dataset

    def prints(images: DetectionDataset, label: str) -> Fingerprints:
        return fingerprint(
            images, FaultLog(), section.num_workers, lambda done, total: reporter.progress(label, done, total)
        )

    own = prints(chosen, "check calibration images")
    checks = [_size(chosen), _duplicates(own), _classes(chosen), _preprocessing(builder, spec, has_metadata)]
    if evaluation is None:
        checks.append(CalibrationCheck("overlap", "unknown", "the config names no evaluation images"))
    else:
        theirs = prints(evaluation, "check evaluation images")
        checks.append(_overlap(chosen, own, theirs, builder.config.quantization.allow_overlap))
    return tuple(checks)


def _size(chosen: Chosen) -> CalibrationCheck:
    few = len(chosen) < FEW_IMAGES
    text = f"{len(chosen)} images of {chosen.source}" + (f"; {FEW_IMAGES} or more are usual" if few else "")
    return CalibrationCheck("size", "warning" if few else "ok", text)


def _duplicates(own: Fingerprints) -> CalibrationCheck:
    if not len(own.index):
        return CalibrationCheck("duplicates", "unknown", NO_FILES)
    equal = sum(len(group) - 1 for group in equal_groups(own.digests))
    pairs, _ = look_alikes(own.looks, own.plain)
    alike = len(pairs) - _equal_pairs(own, pairs)
    if not equal and not alike:
        return CalibrationCheck("duplicates", "ok", "no image is there twice")
    return CalibrationCheck("duplicates", "warning", f"{equal} copies of images, {alike} pairs that look alike")


def _equal_pairs(own: Fingerprints, pairs: np.ndarray) -> int:
    return int((own.digests[pairs[:, 0]] == own.digests[pairs[:, 1]]).all(1).sum())


def _classes(chosen: Chosen) -> CalibrationCheck:
    if not chosen.annotated:
        return CalibrationCheck("classes", "unknown", "the images have no annotations")
    shown = {int(label) for index in range(len(chosen)) for label in chosen.annotation(index).labels}
    missing = [name for label, name in enumerate(chosen.class_names) if label not in shown]
    if not missing:
        return CalibrationCheck("classes", "ok", f"all {len(chosen.class_names)} classes are shown")
    some = ", ".join(missing[:SHOWN]) + (", …" if len(missing) > SHOWN else "")
    return CalibrationCheck(
        "classes", "warning", f"{len(missing)} of {len(chosen.class_names)} classes are on no image: {some}"
    )


def _preprocessing(builder: Builder, spec: DetectorSpec, has_metadata: bool) -> CalibrationCheck:
    if not has_metadata:
        text = "the file says nothing about its preprocessing; the config's is taken"
        return CalibrationCheck("preprocessing", "unknown", text)
    given = _given(builder)
    if builder.config.family is not None and given:
        mine = preprocess_of(builder.config)
        other = [n for n in given if getattr(mine, n) != getattr(spec.preprocess, n)]
        if other:
            wrong = "; ".join(
                f"{n} is {getattr(mine, n)!r}, the model's {getattr(spec.preprocess, n)!r}" for n in other
            )
            raise DataError(
                f"the config's preprocessing isn't the one that the model was trained with: {wrong}",
                "leave these keys out of preprocessing and model.input_shape: the model's file says what it wants",
            )
    return CalibrationCheck("preprocessing", "ok", "as in training: the model's file says it")


def _given(builder: Builder) -> list[str]:
    """The fields of `Preprocess` that the config itself sets."""
    section = builder.config.preprocessing
    names = [n for n in ("color_mode", "mean", "std", "pad_value") if getattr(section, n) is not None]
    names += [n for n in ("scale", "offset") if getattr(section.rescaling, n) is not None]
    if section.resizing.interpolation is not None:
        names.append("interpolation")
    if section.resizing.aspect_ratio is not None:
        names.append("resize_mode")
    return names + (["height", "width"] if builder.config.model.input_shape else [])


def _overlap(chosen: Chosen, own: Fingerprints, theirs: Fingerprints, allowed: bool) -> CalibrationCheck:
    if not len(own.index) or not len(theirs.index):
        return CalibrationCheck("overlap", "unknown", NO_FILES)
    shared = own.index[among(own.digests, theirs.digests)].tolist()
    if not shared:
        return CalibrationCheck("overlap", "ok", "no calibration image is an evaluation image")
    names = ", ".join(Path(str(chosen.annotation(i).path)).name for i in shared[:SHOWN])
    text = f"{len(shared)} of {len(chosen)} calibration images are evaluation images: {names}"
    if not allowed:
        raise DataError(
            f"{text}{' …' if len(shared) > SHOWN else ''}",
            "their score would flatter the int8 model: calibrate on training images (dataset.quantization_path), or set "
            "quantization.allow_overlap: True",
        )
    return CalibrationCheck("overlap", "warning", text)
