"""Looking at all images of a data set before anybody needs them: are they there, how large are they, are they whole?"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from stdet.data.image_io import image_size, verify_image
from stdet.errors import DataError
from stdet_datasets.annotation_cache import Entry, cached, digest_of, file_stamps, is_settled
from stdet_datasets.packed import Complaints, wrong_size

log = logging.getLogger(__name__)

NOTICE_S = 10
"""Work that takes longer tells how far it is, this often."""
Item = TypeVar("Item")


def told(items: Sequence[Item], doing: str) -> Iterator[Item]:
    """The items; on long work, the log tells now and then how many of them are done."""
    last = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() > last + NOTICE_S:
            last = time.monotonic()
            log.info("%s: %d of %d", doing, number, len(items))
        yield item


def check_images(folder: Path, names: Sequence[str], sizes: np.ndarray, complaints: Complaints) -> np.ndarray | None:
    """Check the images of annotations that tell their sizes: that they are there; when bad data is to be skipped, also
    that they are whole and of that size. Complains of those that aren't.

    So what `skip` leaves out is known before the first epoch, and every process leaves out the same.

    Args:
        sizes: int32 (I, 2), declared (height, width).

    Returns:
        int64, the rows to use, or None for all. A missing image whose size is known is used where faults go to a sink.
    """
    if complaints.skip:
        found = measure_images(folder, names, whole=True, complaints=complaints)
        measured = (found > 0).all(1)
        for row in np.flatnonzero(measured & (found != sizes).any(1)).tolist():
            height, width = found[row].tolist()
            declared = (int(sizes[row, 0]), int(sizes[row, 1]))
            complaints.add("unreadable images", wrong_size(folder / names[row], (height, width), declared).message)
        rows = np.flatnonzero(measured & (found == sizes).all(1))
        return rows if len(rows) < len(names) else None
    missing = _missing(folder, names)
    for row in missing:
        complaints.add("missing images", str(folder / names[row]))
    return None


def measure_images(folder: Path, names: Sequence[str], *, whole: bool, complaints: Complaints) -> np.ndarray:
    """int32 (I, 2), (height, width) of images in `folder`, (0, 0) of those that can't be used, which it complains of.

    It opens every image, so the answer is kept, as long as no file has changed.

    Args:
        whole: whether to check that their data is complete, too.
    """
    base = os.path.join(folder, "")  # noqa: PTH118 - 100 000 times: Path is several times as slow
    stamps = file_stamps(base + name for name in names)
    listed = [digest_of(map(os.fsencode, names)), digest_of([stamps.tobytes()])]

    def look() -> Entry:
        sizes, faults = np.zeros((len(names), 2), np.int32), []
        measure: Callable[[Path], tuple[int, int]] = verify_image if whole else image_size
        for row, name in enumerate(told(names, f"looking at the images of {folder}")):
            if not os.path.isfile(base + name):  # noqa: PTH113 - Path.is_file raises on names that are too long
                faults.append(("missing images", str(folder / name)))
                continue
            try:
                sizes[row] = measure(folder / name)
            except DataError as error:
                faults.append(("unreadable images", error.message))
        return Entry({"sizes": sizes}, {"faults": faults})

    entry = cached(["images", str(folder.absolute()), *listed, whole], look, keep=is_settled(stamps))
    for kind, where in entry.facts["faults"]:
        complaints.add(kind, where)
    return entry.arrays["sizes"]


def _missing(folder: Path, names: Sequence[str]) -> list[int]:
    """Rows of the names that no file in `folder` has. One look at each folder instead of one at each file."""
    there: set[str] = set()
    for inner in {"", *(name.rpartition("/")[0] for name in names if "/" in name)}:
        prefix = f"{inner}/" if inner else ""
        try:
            with os.scandir(folder / inner) as listing:
                there.update(prefix + entry.name for entry in listing if entry.is_file())
        except (OSError, ValueError):
            continue  # no such folder: nothing is there
    # The file system may know a name by another spelling than its listing has (capitals), so it has the last word.
    unseen = [row for row, name in enumerate(names) if name not in there]
    return [row for row in unseen if not os.path.isfile(folder / names[row])]  # noqa: PTH113 - as above
