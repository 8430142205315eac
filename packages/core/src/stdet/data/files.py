"""Text files that somebody else wrote: whole, small enough, and files at all."""

from __future__ import annotations

import stat
from pathlib import Path

from stdet.errors import DataError

MAX_TEXT_BYTES = 16 << 20
"""Largest list, and largest annotation file of a single image: 10 000 objects take about 4 MB in VOC's XML."""


def check_file(path: Path, max_bytes: int | None = MAX_TEXT_BYTES) -> None:
    """Check that reading `path` ends, with little memory. One that isn't there is for its reader to tell.

    Raises:
        DataError: a folder, a pipe or a device, or a file that is too large.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
        raise DataError(f"{path} is {kind}, not a file", "give the path of a file")
    if max_bytes is not None and found.st_size > max_bytes:
        raise DataError(f"{path} has {found.st_size} bytes; the limit is {max_bytes}", "mend the file")
