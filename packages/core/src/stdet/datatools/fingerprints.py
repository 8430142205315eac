"""What tells images apart without keeping them: a hash of the bytes, and one of the looks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stdet.data.image_io import image_header, other_size, verify_image
from stdet.datatools.splits import FaultLog
from stdet.errors import DataError
from stdet.interfaces.dataset import DetectionDataset, Fault

BLOCK = 256
"""Images that are handed to the threads at a time."""
LOOK_DISTANCE = 3
"""Bits of 64 that may differ between images that look alike: saved again as JPEG, scaled, slightly changed in tone."""
FLAT = 4
"""Grey levels: an image with less contrast in its 9 x 8 miniature looks like nothing in particular."""
CROWDED = 4096
"""Miniatures that share a quarter of their hash beyond this number are not compared with each other."""


@dataclass(frozen=True)
class Fingerprints:
    """Of the images of a split that could be read.

    Attributes:
        index: int64 (K,), of the images in the data set.
        digests: uint64 (K, 2), BLAKE2b of the file's bytes.
        looks: uint64 (K,), difference hash of a 9 x 8 miniature (N. Krawetz, "Kind of like that", 2013).
        plain: bool (K,), whether the image has too little contrast for `looks` to mean anything.
    """

    index: np.ndarray
    digests: np.ndarray
    looks: np.ndarray
    plain: np.ndarray

    def subset(self, indices: np.ndarray) -> Fingerprints:
        """Of the images `indices`, int64 (M,), ascending, alone; `index` then counts among them."""
        rows = np.isin(self.index, indices)
        index = np.searchsorted(indices, self.index[rows])
        return Fingerprints(index, self.digests[rows], self.looks[rows], self.plain[rows])


_Print = tuple[tuple[int, int], int, bool]


def fingerprint(
    dataset: DetectionDataset, faults: FaultLog, workers: int, progress: Callable[[int, int], object]
) -> Fingerprints:
    """Read every image file once. Generated images have no file and are passed over.

    Args:
        faults: receives images that are missing (unless the reader told them already), damaged, or of another size than
            their annotation says.
        workers: threads that read and decode.
        progress: called with images done and images in all.
    """
    total, told = len(dataset), "missing images" in faults.counts
    found: list[tuple[int, _Print]] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for first in range(0, total, BLOCK):
            indices = range(first, min(first + BLOCK, total))
            for index, result in zip(indices, pool.map(lambda i: _print(dataset, i), indices), strict=True):
                if isinstance(result, Fault):
                    if not (told and result.kind == "missing images"):
                        faults.add(result)
                elif result is not None:
                    found.append((index, result))
            progress(indices.stop, total)
    prints = [p for _, p in found]
    return Fingerprints(
        np.array([index for index, _ in found], np.int64),
        np.array([digest for digest, _, _ in prints], np.uint64).reshape(-1, 2),
        np.array([look for _, look, _ in prints], np.uint64),
        np.array([plain for _, _, plain in prints], bool),
    )


def _print(dataset: DetectionDataset, index: int) -> _Print | Fault | None:
    a = dataset.annotation(index)
    if a.path is None:
        return None
    if not a.path.is_file():
        return Fault("missing images", str(a.path))
    try:
        size = verify_image(a.path)
        data = a.path.read_bytes()
    except DataError as error:
        return Fault("unreadable images", error.message)
    except OSError as error:
        return Fault("unreadable images", f"{a.path}: {error.strerror}")
    if size != (a.height, a.width):
        declared = (a.height, a.width)
        return Fault("images of another size", other_size(a.path, image_header(a.path), declared))
    first, second = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), np.uint64).tolist()
    look, plain = _look(data, min(size))
    return (first, second), look, plain


def _look(data: bytes, side: int) -> tuple[int, bool]:
    """Difference hash of an encoded image whose shorter side is `side` pixels, and whether it is too plain for one."""
    shrunk = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
    mode = next((flag for by, flag in shrunk.items() if side >= 64 * by), cv2.IMREAD_GRAYSCALE)
    grey = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    if grey is None:  # a format that Pillow reads and OpenCV doesn't
        return 0, True
    mini = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = np.packbits(mini[:, 1:] > mini[:, :-1])
    return int(bits.view(np.uint64)[0]), int(mini.max()) - int(mini.min()) < FLAT


def equal_groups(digests: np.ndarray) -> list[np.ndarray]:
    """Rows of `digests`, uint64 (K, 2), with equal ones: int64 (G,) a group, G >= 2, ascending."""
    if not len(digests):
        return []
    _, inverse, counts = np.unique(digests, axis=0, return_inverse=True, return_counts=True)
    rows = np.argsort(inverse.ravel(), kind="stable")
    return [group for group in np.split(rows, np.cumsum(counts)[:-1]) if len(group) > 1]


def among(digests: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool (K,): which `digests` (K, 2) are also in `others` (L, 2)."""
    one, other = (np.ascontiguousarray(d).view([("a", np.uint64), ("b", np.uint64)]).ravel() for d in (digests, others))
    return np.isin(one, other)


def look_alikes(looks: np.ndarray, plain: np.ndarray) -> tuple[np.ndarray, int]:
    """Pairs whose looks differ in at most `LOOK_DISTANCE` bits.

    Two hashes of 64 bits that differ in fewer than 4 have one of four quarters in common, so only those are compared.

    Returns:
        int64 (P, 2), ascending pairs of rows; and how many comparisons were left out, see `CROWDED`.
    """
    rows = np.flatnonzero(~plain)
    pairs, left_out = [np.zeros((0, 2), np.int64)], 0
    for quarter in range(4):
        keys = (looks[rows] >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.diff(keys[order])) + 1
        for bucket in np.split(rows[order], starts):
            if len(bucket) > CROWDED:
                left_out += len(bucket) * (len(bucket) - 1) // 2
            elif len(bucket) > 1:
                pairs.append(_close_pairs(bucket, looks[bucket]))
    return np.unique(np.concatenate(pairs), axis=0), left_out


def _close_pairs(rows: np.ndarray, looks: np.ndarray) -> np.ndarray:
    found = [np.zeros((0, 2), np.int64)]
    for at in range(len(rows) - 1):
        near = np.flatnonzero(np.bitwise_count(looks[at + 1 :] ^ looks[at]) <= LOOK_DISTANCE)
        if len(near):
            found.append(np.sort(np.stack([np.full(len(near), rows[at]), rows[at + 1 + near]], 1), axis=1))
    return np.concatenate(found)


def path_of(dataset: DetectionDataset, index: int) -> Path | str:
    """The file of an image, for messages."""
    return dataset.annotation(index).path or f"image {index}"
