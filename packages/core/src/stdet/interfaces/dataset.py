"""The contract of a data set reader. Checked by `stdet.testing.DatasetContract`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from stdet.interfaces.family import Options
from stdet.structures import Annotation, Sample


@dataclass(frozen=True)
class Fault:
    """Something in a data set that can't be used as it is.

    Attributes:
        kind: what is wrong, a plural noun that never changes, such as `missing images`; `stdet data check` knows it.
        where: the first one: file, line or entry, and what it says.
        count: how many.
    """

    kind: str
    where: str
    count: int = 1


@dataclass(frozen=True)
class DatasetRequest:
    """What the config says of one split.

    Attributes:
        split: `train`, `val`, `test`, `quantization` or `prediction`.
        images_path: folder of the images.
        annotations_path: JSON file (COCO) or XML folder (VOC); None where there are no annotations to read.
        split_path: text file with image names (VOC), or None.
        class_names: classes in label order; None takes them from the annotations.
        on_bad_data: `error` stops at the first unusable file, `skip` leaves it out, with one warning that counts.
        options: the reader's own options, validated.
        on_fault: when given, receives every fault, and the reader neither stops nor warns: it leaves out what can't be
            used, but keeps images that are missing when their size is known. Faults are told on every open.
    """

    split: str
    images_path: Path | None = None
    annotations_path: Path | None = None
    split_path: Path | None = None
    class_names: tuple[str, ...] | None = None
    on_bad_data: Literal["error", "skip"] = "error"
    options: Options | None = None
    on_fault: Callable[[Fault], object] | None = None


class DetectionDataset(ABC):
    """Images with boxes, read on demand. Safe to copy into worker processes."""

    class_names: tuple[str, ...]
    """Object classes in label order, without background."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images, images without boxes included."""

    @abstractmethod
    def annotation(self, index: int) -> Annotation:
        """Everything known of image `index` without decoding it."""

    @abstractmethod
    def read_image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, or (H, W, 4) where the file has an alpha channel that the reader was asked to keep.

        Raises:
            DataError: the file is missing or can't be decoded; names it.
        """

    def sample(self, index: int) -> Sample:
        """Image `index` for training: lazily decoded, without the boxes that are marked `ignore`."""
        a = self.annotation(index)
        keep = ~a.ignore
        return Sample(lambda: self.read_image(index), a.boxes[keep], a.labels[keep], (a.height, a.width))
