"""Decoded images kept for training: in memory that all workers share, on disk, or the most recent ones of a worker.

A cache holds images at their *working size*: shrunk, never enlarged, to what the resize mode makes of them for the
network's input, as YOLOX's and ultralytics' caches do. So what a sample looks like depends on whether there is a cache,
but never on what is in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import multiprocessing
from abc import ABC, abstractmethod
from collections import OrderedDict
from pathlib import Path

import numpy as np

from stdet.artifacts import cache_folder, write_bytes
from stdet.data.preprocess import fitted, resized_sample
from stdet.errors import ArtifactError, DataError
from stdet.interfaces.dataset import DetectionDataset
from stdet.structures import Preprocess, Sample

log = logging.getLogger(__name__)

FORMAT = 1
"""Of the files on disk; part of their names."""


def working_size(size: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """(height, width) at which an image of `size` is cached."""
    (height, width), _ = fitted(size, preprocess)
    return min(height, size[0]), min(width, size[1])


class ImageCache(ABC):
    """The samples of a data set at their working size."""

    def __init__(self, dataset: DetectionDataset, preprocess: Preprocess) -> None:
        self._dataset = dataset
        self._preprocess = preprocess

    def sample(self, index: int) -> Sample:
        """As the data set's own, but of working size; the image comes from the cache, or gets into it, on first use."""
        original = self._dataset.sample(index)
        size = working_size((original.height, original.width), self._preprocess)
        resized = resized_sample(original, size, self._preprocess)
        return Sample(lambda: self._image(index, resized), resized.boxes, resized.labels, size)

    def _image(self, index: int, resized: Sample) -> np.ndarray:
        cached = self._get(index)
        if cached is None:
            cached = resized.image
            self._put(index, cached)
        return cached

    @abstractmethod
    def _get(self, index: int) -> np.ndarray | None:
        """The image, not to be written to, or None."""

    @abstractmethod
    def _put(self, index: int, image: np.ndarray) -> None:
        """Keep the image, if there is room."""

    def _places(self, limit_bytes: int, where: str) -> tuple[np.ndarray, np.ndarray]:
        """int (N, 3) shapes and int64 (N,) first bytes of all images, of which those that fit into the limit count.

        The first ones do, in the order of the data set: always the same, so no image is thrown out for another one.
        """
        channels = 4 if self._preprocess.color_mode == "rgba" else 3
        sizes = [self._dataset.annotation(i) for i in range(len(self._dataset))]
        shapes = np.array([(*working_size((a.height, a.width), self._preprocess), channels) for a in sizes])
        ends = np.cumsum(shapes.prod(1, dtype=np.int64))
        fit = int(np.searchsorted(ends, limit_bytes, side="right"))
        room = int(ends[fit - 1]) if fit else 0
        log.info("%s: up to %.1f GiB for %d of %d images", where, room / (1 << 30), fit, len(shapes))
        if fit < len(shapes):
            log.warning("%s holds %d of %d images; raise dataset.cache_limit_gib for more", where, fit, len(shapes))
        return shapes[:fit], np.concatenate([[0], ends[:fit]])


class MemoryCache(ImageCache):
    """Images in one anonymous mapping that forked workers share: each image is decoded once, whoever needs it first."""

    def __init__(
        self, dataset: DetectionDataset, preprocess: Preprocess, limit_bytes: int, *, shared: bool = True
    ) -> None:
        """Args:
        shared: whether workers will need it, which forks alone can.

        Raises:
            DataError: they would be no forks, or the system gives no lock.
        """
        super().__init__(dataset, preprocess)
        if shared and multiprocessing.get_start_method() != "fork":
            raise DataError(
                "dataset.cache_images: ram is memory that workers share when they are forked, and here they are spawned",
                "set it to disk, or dataset.num_workers to 0",
            )
        self._shapes, self._starts = self._places(limit_bytes, "the image cache in memory")
        count = len(self._shapes)
        # Pages that nobody touches take no memory.
        everything = np.frombuffer(mmap.mmap(-1, max(1, count + int(self._starts[-1]))), np.uint8)
        self._ready, self._pixels = everything[:count], everything[count:]
        try:
            self._lock = multiprocessing.Lock()  # so that another processor sees the pixels before the flag
        except OSError as error:  # POSIX keeps it in /dev/shm
            raise DataError(
                f"the workers can't share a lock: {error}", "free /dev/shm, or set cache_images to disk"
            ) from error

    def _slot(self, index: int) -> np.ndarray:
        return self._pixels[self._starts[index] : self._starts[index + 1]].reshape(self._shapes[index])

    def _get(self, index: int) -> np.ndarray | None:
        if index >= len(self._ready):
            return None
        with self._lock:
            if not self._ready[index]:
                return None
        slot = self._slot(index)
        slot.flags.writeable = False
        return slot

    def _put(self, index: int, image: np.ndarray) -> None:
        if index >= len(self._ready):
            return
        self._slot(index)[:] = image  # two workers may do so at once, with the same pixels
        with self._lock:
            self._ready[index] = 1


class DiskCache(ImageCache):
    """Images in files of stdet's cache folder, `images/`, one an image, raw; they outlast the run.

    A file's name is the hash of all that its pixels depend on: path, size and time of the image file, working size,
    resize mode, kernel and channels. So a changed image is decoded again, and nothing stale can be found. A file of the
    wrong length is made anew.
    """

    def __init__(self, dataset: DetectionDataset, preprocess: Preprocess, limit_bytes: int) -> None:
        """Raises:
        DataError: the images of the data set are no files.
        """
        super().__init__(dataset, preprocess)
        if len(dataset) and dataset.annotation(0).path is None:
            raise DataError(
                "dataset.cache_images is disk, but the images of this data set are no files", "set it to ram or none"
            )
        self._folder = cache_folder() / "images"
        self._shapes, _ = self._places(limit_bytes, f"the image cache in {self._folder}")

    def _file(self, index: int) -> Path:
        path = self._dataset.annotation(index).path
        assert path is not None
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}", "check the images path of the split") from error
        identity = str(path.absolute()), status.st_size, status.st_mtime_ns
        pixels = self._shapes[index].tolist(), self._preprocess.resize_mode, self._preprocess.interpolation
        digest = hashlib.sha256(json.dumps([FORMAT, identity, pixels]).encode()).hexdigest()
        return self._folder / digest[:2] / digest[2:]

    def _get(self, index: int) -> np.ndarray | None:
        if index >= len(self._shapes):
            return None
        file = self._file(index)
        try:
            pixels = np.fromfile(file, np.uint8)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ArtifactError(f"cannot read {file}: {error.strerror}", "delete it, or set STDET_CACHE") from error
        shape = self._shapes[index]
        return pixels.reshape(shape) if len(pixels) == shape.prod() else None

    def _put(self, index: int, image: np.ndarray) -> None:
        if index < len(self._shapes):
            write_bytes(self._file(index), lambda file: file.write(np.ascontiguousarray(image).data))


class RecentImages(ImageCache):
    """The images that this process used last."""

    def __init__(self, dataset: DetectionDataset, preprocess: Preprocess, count: int, limit_bytes: int) -> None:
        super().__init__(dataset, preprocess)
        self._count, self._limit = count, limit_bytes
        self._images: OrderedDict[int, np.ndarray] = OrderedDict()
        self._bytes = 0

    def _get(self, index: int) -> np.ndarray | None:
        if index not in self._images:
            return None
        self._images.move_to_end(index)
        return self._images[index]

    def _put(self, index: int, image: np.ndarray) -> None:
        self._images[index] = image
        self._bytes += image.nbytes
        while len(self._images) > self._count or self._bytes > self._limit:
            _, oldest = self._images.popitem(last=False)
            self._bytes -= oldest.nbytes
