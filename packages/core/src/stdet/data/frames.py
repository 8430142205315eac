"""What predictions are made on: the images of a folder, one image, the frames of a video or of a camera."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np

from stdet.data.image_io import image_size
from stdet.errors import DataError
from stdet.interfaces.dataset import DetectionDataset

Item = TypeVar("Item")
Result = TypeVar("Result")
USUAL_FPS = 25.0
"""Of a video or camera that doesn't say."""


@dataclass(frozen=True)
class Frame:
    """Attributes:
    name: of its file; of a frame, of the video's.
    path: the file; None for a camera.
    number: of a frame, from 0; None for an image.
    image: uint8 (H, W, 3) RGB, or RGBA.
    """

    name: str
    path: Path | None
    number: int | None
    image: np.ndarray


@dataclass(frozen=True)
class Source:
    """Frames that are read by their index, each once and in order.

    Attributes:
        kind: what they are.
        total: how many there are; None where nobody knows before the end.
        read: the frame of an index, None behind the end.
        threads: how many may read at the same time.
        fps: frames a second of a video; 0 for images.
    """

    kind: Literal["images", "video", "camera"]
    total: int | None
    read: Callable[[int], Frame | None]
    threads: int
    fps: float = 0.0

    def indices(self, limit: int | None) -> Iterable[int]:
        """Those to read, at most `limit`."""
        bounds = [n for n in (limit, self.total if self.kind == "images" else None) if n is not None]
        return range(min(bounds)) if bounds else count()


def is_camera(path: Path) -> bool:
    """Whether a path is the number of a camera, and no file of that name."""
    return path.as_posix().isdecimal() and not path.exists()


def open_source(path: Path, images: Callable[[], DetectionDataset]) -> Source:
    """What lies at `path`, told by what it holds.

    Args:
        images: opens `path` as a folder of images, or as one image.

    Raises:
        DataError: there is nothing, no image in the folder, neither an image nor a video, or no such camera.
    """
    if is_camera(path):
        return _frames(path, None)
    if not path.exists():
        raise DataError(
            f"there is nothing at {path}", "name an image, a folder of images, a video, or a camera by its number"
        )
    if path.is_file() and not _is_image(path):
        return _frames(path, path)
    dataset = images()
    if not len(dataset):
        raise DataError(f"{path} holds no image", "name a folder with images directly in it")

    def read(index: int) -> Frame:
        file = dataset.annotation(index).path
        return Frame(file.name if file else str(index), file, None, dataset.read_image(index))

    return Source("images", len(dataset), read, threads=2)


def _is_image(path: Path) -> bool:
    try:
        image_size(path)
    except DataError:
        return False
    return True


def _frames(path: Path, file: Path | None) -> Source:
    """Of the video `file`, or where it is None of the camera whose number is `path`."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong is told in a sentence below
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(str(file) if file else int(path.as_posix()))  # type: ignore[arg-type]
        opened = capture.isOpened()
        first = capture.read() if opened else (False, None)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not first[0]:
        if file is None:
            raise DataError(f"there is no camera {path} that answers", "name another number, or a video file")
        raise DataError(f"{file} is neither an image nor a video that OpenCV can read", "name another file")
    waiting = [first[1]]

    def read(index: int) -> Frame | None:
        pixels = waiting.pop() if waiting else capture.read()[1]
        if pixels is None:
            capture.release()
            return None
        image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        return Frame(file.name if file else f"camera_{path}", file, index, image)

    told = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # often wrong by a few: for the progress bar only
    fps = capture.get(cv2.CAP_PROP_FPS)
    total = told if file is not None and told > 0 else None
    return Source("video" if file else "camera", total, read, 1, fps if 1 <= fps <= 1000 else USUAL_FPS)


def ahead(work: Callable[[Item], Result], items: Iterable[Item], pool: Executor, depth: int) -> Iterator[Result]:
    """`work(item)` for each item, in order, with up to `depth` of them done or begun before they are asked for."""
    begun: deque[Future[Result]] = deque()
    for item in items:
        begun.append(pool.submit(work, item))
        if len(begun) > depth:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
