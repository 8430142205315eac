"""Whether the images that int8 ranges would be taken from are fit for it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stdet.data.source import DataSource
from stdet.datatools.duplicates import Prints
from stdet.datatools.findings import Finding, found
from stdet.datatools.fingerprints import among, fingerprint, path_of
from stdet.datatools.splits import MAX_EXAMPLES, FaultLog, OpenedSplit
from stdet.errors import StdetError
from stdet.interfaces.reporter import Reporter

FEW_IMAGES = 50
"""Below this number the ranges of activations depend on which images were drawn."""


def check_calibration(source: DataSource, prints: Prints, seen: set[str], reporter: Reporter) -> Iterator[Finding]:
    """D401 to D404 on the images of `dataset.quantization_path`, or on the share of the training set that stands in.

    Args:
        seen: the classes that the training set shows.
    """
    section = source.config.dataset
    by_split = {opened.name: (opened, p) for opened, p in prints}
    if section.quantization_path is None:
        if "train" not in by_split:
            return
        opened, own = by_split["train"]
        chosen = source.calibration_indices(len(opened.dataset))
    else:
        faults = FaultLog()
        try:
            folder = source.image_folder("quantization", section.quantization_path, faults.add)
        except StdetError as error:
            yield found("D100", "quantization", f"can't be opened: {error.message}", 1)
            return
        opened = OpenedSplit("quantization", folder, faults)
        own = fingerprint(
            folder, faults, section.num_workers, lambda done, total: reporter.progress("quantization", done, total)
        )
        chosen = source.calibration_indices(len(folder))
        if faults.counts:
            yield found("D002", "quantization", faults.summary(), sum(faults.counts.values()))
    if len(chosen) < FEW_IMAGES:
        yield found(
            "D401", opened.name, f"{len(chosen)} calibration images; {FEW_IMAGES} or more are usual", len(chosen)
        )
    mine = own.digests[np.isin(own.index, chosen)]
    if "test" in by_split and opened.name != "train":  # shared with training, that is D202 already
        test, theirs = by_split["test"]
        shared = theirs.index[among(theirs.digests, mine)]
        if len(shared):
            examples = [str(path_of(test.dataset, int(i))) for i in shared[:MAX_EXAMPLES]]
            yield found(
                "D403", "quantization+test", f"{len(shared)} test images are calibrated on", len(shared), examples
            )
    yield from _shown_classes(opened, mine, chosen, prints, seen)


def _shown_classes(
    opened: OpenedSplit, mine: np.ndarray, chosen: np.ndarray, prints: Prints, seen: set[str]
) -> Iterator[Finding]:
    """The classes in the calibration images: their own annotations, or those of equal images in the other splits."""
    shown: set[str] = set()
    known = 0
    if opened.name == "train":
        sources = [(opened, chosen)]
    else:
        sources = [(other, p.index[among(p.digests, mine)]) for other, p in prints]
    for other, indices in sources:
        known += len(indices)
        for index in indices.tolist():
            shown.update(other.dataset.class_names[label] for label in other.dataset.annotation(index).labels)
    if not known:
        message = "no calibration image is in an annotated split, so nobody knows which classes they show"
        yield found("D404", opened.name, message, len(chosen))
        return
    missing = sorted(seen - shown)
    if missing:
        message = f"{len(missing)} of {len(seen)} classes are in no calibration image"
        yield found("D402", opened.name, message, len(missing), missing)
