"""The contracts of a data set reader, checked by `stdet.testing.DatasetContract`, and of a writer of its format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from stdet.interfaces.family import Options
from stdet.structures import Annotation, Sample

if TYPE_CHECKING:
    import numpy as np


def _finds_nothing(folder: Path) -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True)
class ReaderFacts:
    """What a reader tells the config layer about itself, in a module that is quick to import.

    Attributes:
        options: the reader's own keys in the `dataset` section.
        needs: which of a split's keys (`images_path`, `annotations_path`) it can't do without; none for a reader that
            generates its images or finds them by its own keys: it has every split then.
        split_lists: whether `<split>_split`, lists of image names, mean something to it: a line is the image's name in its
            folder without suffix.
        aliases: other names of the format.
        list_is_enough: whether a list stands in for `needs`.
        find: looks at a folder and says the keys of the `dataset` section that read what is there of this format, such as
            `train_images_path`; nothing where there is none. Sets that no name tells to be another are `train`. Raises a
            DataError where several could be one split.
    """

    options: type[Options] = Options
    needs: tuple[str, ...] = ("images_path", "annotations_path")
    split_lists: bool = False
    aliases: tuple[str, ...] = ()
    list_is_enough: bool = True
    find: Callable[[Path], Mapping[str, Any]] = _finds_nothing


IMAGES_ALONE = ReaderFacts(needs=("images_path",))
"""Facts of a reader that needs the images and nothing else."""


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
        split_path: text file with image names (VOC), or several, or None.
        class_names: classes in label order; None takes them from the annotations.
        guard_names: the user wrote `class_names`, so that one which the annotations don't know is a typo; names of
            weights or of the training set may be missing.
        keep_alpha: images are wanted as RGBA; those without an alpha channel are opaque.
        on_bad_data: `error` stops at the first unusable file, `skip` leaves it out, with one warning that counts.
        options: the reader's own options, validated.
        on_fault: when given, receives every fault, and the reader neither stops nor warns: it leaves out what can't be
            used, but keeps images that are missing when their size is known. Faults are told on every open.
    """

    split: str
    images_path: Path | None = None
    annotations_path: Path | None = None
    split_path: Path | tuple[Path, ...] | None = None
    class_names: tuple[str, ...] | None = None
    guard_names: bool = True
    keep_alpha: bool = False
    on_bad_data: Literal["error", "skip"] = "error"
    options: Options | None = None
    on_fault: Callable[[Fault], object] | None = None


class DetectionDataset(ABC):
    """Images with boxes, read on demand. Safe to copy into worker processes."""

    class_names: tuple[str, ...]
    """Object classes in label order, without background."""

    notes: tuple[str, ...] = ()
    """What the reader left out or changed without a fault, a line each, for people: stages show it."""

    ignored: Literal["crowd", "difficult"] = "crowd"
    """What `Annotation.ignore` marks. A detection matches a crowd by the share of the detection that lies inside it (COCO),
    a difficult object by IoU, as any other (VOC)."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of images, images without boxes included."""

    @abstractmethod
    def annotation(self, index: int) -> Annotation:
        """Everything known of image `index` without decoding it."""

    @abstractmethod
    def read_image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, or (H, W, 4) RGBA when the request said `keep_alpha`.

        Raises:
            DataError: the file is missing or can't be decoded; names it.
        """

    def read_reduced(self, index: int, factor: int) -> np.ndarray:
        """Image `index` averaged down by `factor` (2, 4 or 8) where that is cheaper than decoding it in full.

        Returns:
            As `read_image`: uint8 (H, W, C), or (ceil(H / factor), ceil(W / factor), C).

        Raises:
            DataError: as `read_image`, or it isn't of the size that `annotation` says.
        """
        return self.read_image(index)

    def sample(self, index: int) -> Sample:
        """Image `index` for training: lazily decoded, without the boxes that are marked `ignore`."""
        a = self.annotation(index)
        boxes, labels = (a.boxes[~a.ignore], a.labels[~a.ignore]) if a.ignore.any() else (a.boxes, a.labels)
        return Sample(
            lambda: self.read_image(index),
            boxes,
            labels,
            (a.height, a.width),
            lambda factor: self.read_reduced(index, factor),
        )


@dataclass(frozen=True)
class WriteRequest:
    """What a writer shall write: one split of a data set.

    Attributes:
        folder: where everything goes; it exists. The other splits are written into it too.
        split: `train`, `val` or `test`.
        class_names: classes in label order.
    """

    folder: Path
    split: str
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class WrittenSplit:
    """What a writer has written.

    Attributes:
        annotations_path, split_path: what a `DatasetRequest` for the reader of the same name needs.
        lost: what the format can't say, a sentence each, such as `3 areas of masks`, with the number.
    """

    annotations_path: Path
    split_path: Path | None = None
    lost: dict[str, int] = field(default_factory=dict)


class DatasetWriter(ABC):
    """Writes one split image by image, and keeps no more of it in memory than a line an image.

    Reading it back gives the same boxes and classes: `DatasetContract` checks it for every reader with a writer.
    """

    lists_images: ClassVar[bool] = True
    """Whether the annotations say which images belong to the split; else it is all that are in the images' folder."""

    def __init__(self, request: WriteRequest) -> None:
        self.request = request

    @property
    @abstractmethod
    def images_folder(self) -> Path:
        """Where the format wants the images of the split to be, inside `request.folder`."""

    @abstractmethod
    def add(self, name: str, annotation: Annotation) -> None:
        """Write what is known of an image.

        Args:
            name: of the image file, inside its folder.

        Raises:
            DataError: the format can't have an image of this name beside the others.
        """

    @abstractmethod
    def finish(self) -> WrittenSplit:
        """Write the rest and close the files."""
