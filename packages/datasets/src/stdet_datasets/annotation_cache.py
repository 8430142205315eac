"""What was read from annotation files, kept on disk in `stdet.artifacts.cache_folder()` and memory-mapped from there.

An entry is named by a hash of everything that shapes it, carries a checksum, and is never changed: an entry that is stale
is simply not asked for any more, and one that is damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stdet.artifacts import cache_folder, sha256_file, write_bytes
from stdet.errors import ArtifactError, DataError

log = logging.getLogger(__name__)

FORMAT = 3
"""Part of every key: to be raised whenever a reader reads the same file differently, or entries look different."""
MAGIC = b"stdetann"
ALIGNMENT = 64
RECENT_NS = 2_000_000_000
"""A file changed less than 2 s ago may change again without a new time stamp, so its hash isn't remembered."""
MAX_BYTES, MAX_ENTRIES = 2 << 30, 2000
"""Entries that weren't used for longest go when the folder holds more than this."""


@dataclass(frozen=True)
class Entry:
    """What is kept: named arrays of any shape and fixed-size type, and JSON values beside them.

    Attributes:
        path: the file that the arrays are mapped from; None when they are in memory.
    """

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Spawned workers map the same file instead of receiving a copy."""
        return (Entry, (self.arrays, self.facts)) if self.path is None else (_open_again, (self.path,))


def cached(key: Sequence[Any], make: Callable[[], Entry], *, keep: bool = True) -> Entry:
    """The entry of a key, from the cache, else made now and stored.

    A cache folder that can't be written costs time, not the run: it is warned of, and the entry stays in memory.

    Args:
        key: JSON values that determine what `make` returns.
        keep: whether to look for the entry and to store it; False just makes it.
    """
    if not keep:
        return make()
    digest = hashlib.sha256(json.dumps([FORMAT, *key]).encode()).hexdigest()
    path = _folder() / f"{digest}.bin"
    try:
        entry = _open(path)
        with suppress(OSError):  # somebody else's, or on a disk that can't be written
            os.utime(path)  # the time of last use, for `_prune`
        return entry
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        log.warning("the annotation cache %s is damaged (%s) and is made again", path, error)
    entry = make()
    try:
        write_bytes(path, lambda file: file.writelines(_pieces(entry, digest)))
        _prune()
        return _open(path)
    except (ArtifactError, OSError) as error:
        log.warning("annotations are not cached: %s", error)
        return entry


def content_hash(paths: Sequence[Path], max_bytes: int = 1 << 63) -> str:
    """Hex SHA-256 over the contents of files, in order; one that can't be read, or is larger than `max_bytes` and so
    won't be read, counts as a content of its own.

    Files that are as they were (size, inode, times of change of content and of metadata) aren't read again.
    """
    stamps = file_stamps(map(str, paths))

    def read() -> Entry:
        whole = hashlib.sha256()
        for path, size in zip(paths, stamps[:, 0].tolist(), strict=True):
            try:
                if size < 0:
                    raise ArtifactError(f"{path} is no file")
                whole.update(bytes.fromhex(sha256_file(path)) if size <= max_bytes else b"too large")
            except ArtifactError:
                whole.update(b"unreadable")
        return Entry({}, {"sha256": whole.hexdigest()})

    key = ["content", digest_of(map(os.fsencode, paths)), digest_of([stamps.tobytes()])]
    return str(cached(key, read, keep=is_settled(stamps)).facts["sha256"])


def digest_of(parts: Iterable[bytes]) -> str:
    """Hex SHA-256 of parts that hold no 0 byte, or of a single one."""
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def file_stamps(paths: Iterable[str]) -> np.ndarray:
    """int64 (N, 4), for each file: size, inode, and time of change of content and of metadata in ns; -1 where it isn't a
    file that can be read."""
    stamps: list[tuple[int, int, int, int]] = []
    for path in paths:
        try:
            found = os.stat(path)  # noqa: PTH116 - 100 000 times: Path is three times as slow
            if not stat.S_ISREG(found.st_mode):  # reading a pipe or a device may never end
                raise ValueError("no file")
            stamps.append((found.st_size, found.st_ino & (2**63 - 1), found.st_mtime_ns, found.st_ctime_ns))
        except (OSError, ValueError):
            stamps.append((-1, -1, -1, -1))
    return np.array(stamps, np.int64).reshape(-1, 4)


def is_settled(stamps: np.ndarray) -> bool:
    """Whether files with these stamps, int64 (N, 4) of `file_stamps`, can't change without showing it in them."""
    return not len(stamps) or int(stamps[:, 2:].max()) < time.time_ns() - RECENT_NS


def _folder() -> Path:
    return cache_folder() / "annotations"


def _pieces(entry: Entry, digest: str) -> Iterator[bytes]:
    """The file: magic, SHA-256 of the rest, length of the header, header as JSON, arrays, each aligned."""
    arrays = {name: np.ascontiguousarray(array) for name, array in entry.arrays.items()}
    shapes = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    header = json.dumps({"key": digest, "arrays": shapes, "facts": entry.facts}).encode()
    header += b" " * (-(len(MAGIC) + 32 + 8 + len(header)) % ALIGNMENT)
    body = [len(header).to_bytes(8, "little"), header]
    for array in arrays.values():
        body += [array.tobytes(), bytes(-array.nbytes % ALIGNMENT)]
    checksum = hashlib.sha256()
    for piece in body:
        checksum.update(piece)
    yield from (MAGIC, checksum.digest(), *body)


def _open(path: Path) -> Entry:
    """Map an entry.

    Raises:
        OSError: it isn't there or can't be read.
        ValueError: it isn't what was written.
    """
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    start = len(MAGIC) + 32
    if data[: len(MAGIC)] != MAGIC or hashlib.sha256(data[start:]).digest() != data[len(MAGIC) : start]:
        raise ValueError("its checksum is wrong")
    at = start + 8
    header = json.loads(bytes(data[at : at + int.from_bytes(data[start:at], "little")]))
    if header["key"] != path.stem:
        raise ValueError("it was renamed")
    at += int.from_bytes(data[start:at], "little")
    arrays = {}
    for name, (kind, shape) in header["arrays"].items():
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(data, np.dtype(kind), count, at).reshape(shape)
        at += -(-arrays[name].nbytes // ALIGNMENT) * ALIGNMENT
    return Entry(arrays, header["facts"], path)


def _open_again(path: Path) -> Entry:
    try:
        return _open(path)
    except (OSError, ValueError) as error:
        raise DataError(f"the annotation cache {path} went away while it was in use: {error}", "start again") from error


def _prune() -> None:
    """Remove what wasn't used for longest, down to the limits. Who has an entry mapped keeps it."""
    found = []
    with os.scandir(_folder()) as listing:
        for entry in listing:
            try:
                found.append((entry.stat().st_mtime, entry.stat().st_size, Path(entry.path)))
            except FileNotFoundError:
                continue  # another process prunes too
    total = 0
    for number, (_, size, path) in enumerate(sorted(found, reverse=True)):
        total += size
        if total > MAX_BYTES or number >= MAX_ENTRIES:
            path.unlink(missing_ok=True)
