"""What `data check` can find: a stable id each, with the severity it has unless a check says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

FAULT_CHECKS: dict[str, tuple[str, Severity]] = {
    "missing images": ("D001", "error"),
    "unreadable images": ("D002", "error"),
    "images of another size": ("D003", "error"),
    "boxes outside the image or without area": ("D004", "error"),
    "images with too many objects": ("D005", "error"),
    "areas that are none": ("D006", "error"),
    "annotations of no image": ("D007", "error"),
    "annotations of no category": ("D008", "error"),
    "unusable annotation files": ("D009", "error"),
    "objects of other classes": ("D010", "info"),
    "unusable label lines": ("D011", "error"),
    "images that share a label file": ("D012", "error"),
    "label files without an image": ("D013", "error"),
    "boxes that stick out of their image": ("D014", "warning"),
    "images listed under several ids": ("D015", "warning"),
    "unusable entries": ("D016", "error"),
    "images without an annotation file": ("D017", "info"),
    "classes of one name": ("D018", "warning"),
    "classes that the annotations don't list": ("D019", "info"),
}
"""Kinds of `Fault` to check ids; a kind that isn't here, of another package's reader, is D099."""

HARMLESS_FAULTS = frozenset(kind for kind, (_, severity) in FAULT_CHECKS.items() if severity != "error")
"""Kinds that tell what the config asked for, or what the reader mended: they stop nothing."""

CHECKS: dict[str, tuple[str, Severity]] = {
    **{check: (kind, severity) for kind, (check, severity) in FAULT_CHECKS.items()},
    "D099": ("other faults that the reader tells", "error"),
    "D100": ("a split can't be opened, or is empty", "error"),
    "D101": ("classes without a single object", "warning"),
    "D102": ("class imbalance", "warning"),
    "D103": ("images without objects", "info"),
    "D104": ("objects annotated twice", "warning"),
    "D105": ("a set without a single object that counts", "error"),
    "D106": ("training images without validation images", "info"),
    "D201": ("images that are in a split twice", "warning"),
    "D202": ("images shared by training and validation or test", "error"),
    "D203": ("images shared by validation and test", "warning"),
    "D204": ("images of a split that look alike", "info"),
    "D205": ("images of two splits that look alike", "warning"),
    "D301": ("objects too small to be assigned", "warning"),
    "D302": ("a model that can't be built for the data", "error"),
    "D401": ("few calibration images", "warning"),
    "D402": ("classes that no calibration image shows", "warning"),
    "D403": ("calibration images that are evaluation images", "error"),
    "D404": ("calibration images whose classes nobody knows", "info"),
    "D405": ("calibration images that are there twice or look alike", "warning"),
    "D406": ("another preprocessing than the model was trained with", "error"),
}
"""Every check: what it looks for, and how bad it is."""


@dataclass(frozen=True)
class Finding:
    """One thing that a check found in one split, or between two.

    Attributes:
        id: of the check, a key of `CHECKS`.
        severity: `error` spoils training or its scores, `warning` may, `info` is worth knowing.
        split: such as `train` or `train+test`.
        message: one line, with numbers.
        count: of what is wrong.
        examples: where, the first ones.
        values: numbers for programs, such as a share per class.
    """

    id: str
    severity: Severity
    split: str
    message: str
    count: int
    examples: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)


def found(
    check: str,
    split: str,
    message: str,
    count: int,
    examples: Sequence[str] = (),
    severity: Severity | None = None,
    **values: Any,
) -> Finding:
    """A finding of `check`, with its severity unless another is given."""
    return Finding(check, severity or CHECKS[check][1], split, message, count, tuple(examples), values)
