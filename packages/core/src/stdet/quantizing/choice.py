"""Which images int8 ranges come from. Without torch, so that `stdet data check` can ask, too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stdet.data.source import DataSource
from stdet.errors import DataError
from stdet.interfaces.dataset import DetectionDataset, Fault
from stdet.structures import Annotation, DetectorSpec


class Chosen(DetectionDataset):
    """Some images of a data set.

    Attributes:
        indices: int64 (K,), ascending, of the images in `whole`.
        source: folder or annotation file that they come from.
        annotated: False for a folder of images of which nothing is known.
    """

    def __init__(self, whole: DetectionDataset, indices: np.ndarray, source: str, annotated: bool = True) -> None:
        self.whole, self.indices = whole, indices
        self.class_names, self.ignored = whole.class_names, whole.ignored
        self.source = source
        self.annotated = annotated

    def __len__(self) -> int:
        return len(self.indices)

    def annotation(self, index: int) -> Annotation:
        return self.whole.annotation(int(self.indices[index]))

    def read_image(self, index: int) -> np.ndarray:
        """uint8 (H, W, C), as the whole set reads it."""
        return self.whole.read_image(int(self.indices[index]))


def choose(
    source: DataSource,
    class_names: tuple[str, ...] | None,
    spec: DetectorSpec | None = None,
    on_fault: Callable[[Fault], object] | None = None,
    training: DetectionDataset | None = None,
) -> Chosen:
    """The images of `quantization_path`, else the training images; `quantization_split` takes that share of them.

    Args:
        training: the training images, where they are open already.

    Raises:
        DataError: there is none.
    """
    section = source.config.dataset
    folder = section.quantization_path
    if folder:
        whole = source.image_folder("quantization", folder, on_fault, spec)
    elif training is not None:
        whole = training
    else:
        whole = source.dataset("train", class_names, on_fault, spec)
    name = str(folder or section.train_images_path or section.dataset_name)
    chosen = Chosen(whole, source.calibration_indices(len(whole)), name, annotated=folder is None)
    if not len(chosen):
        raise DataError(f"{name} holds no image to calibrate on", "set dataset.quantization_path")
    return chosen
