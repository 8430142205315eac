"""Looking at all images of a data set before anybody needs them: are they there, how large are they, are they whole?"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from stdet.data.complaints import Complaints
from stdet.data.image_io import image_header, image_size, other_size, verify_image
from stdet.errors import DataError
from stdet_datasets.annotation_cache import Entry, cached, digest_of, file_stamps, is_settled
from stdet_datasets.packed import absent

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
    """Check the images of annotations that tell their sizes: that they are there, are images and of that size; when bad
    data is to be skipped, also that they are whole. Complains of those that aren't.

    So what is wrong, and what `skip` leaves out, is known before the first epoch, and to every process alike.

    Args:
        sizes: int32 (I, 2), declared (height, width).

    Returns:
        int64, the rows to use, or None for all. A missing image whose size is known is used where faults go to a sink.
    """
    found = measure_images(folder, names, whole=complaints.skip, complaints=complaints)
    measured, declared = (found > 0).all(1), (sizes > 0).all(1)
    for row in np.flatnonzero(measured & declared & (found != sizes).any(1)).tolist():
        path, (height, width) = folder / names[row], sizes[row].tolist()
        complaints.add("images of another size", other_size(path, image_header(path), (height, width)))
    usable = declared & (found == sizes).all(1)
    if complaints.sink is not None:
        for row in np.flatnonzero(declared & ~measured).tolist():
            usable[row] = not os.path.lexists(folder / names[row])
    return None if usable.all() else np.flatnonzero(usable)


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
                faults.append(("missing images", absent(folder / name)))
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
