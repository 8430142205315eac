"""Every image of a folder, without annotations: for prediction and calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stdet.data.complaints import Complaints
from stdet.data.image_io import image_size, read_image, verify_image
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset
from stdet.structures import Annotation

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def required_folder(path: Path | None, key: str) -> Path:
    """Raises:
    DataError: not given, or not a folder.
    """
    if path is None:
        raise DataError(f"dataset.{key} is not set", f"set dataset.{key} to the folder of the images")
    if not path.is_dir():
        raise DataError(f"dataset.{key}: no folder at {path}", "paths are relative to the folder you run stdet in")
    return path


class ImageFolder(DetectionDataset):
    """The images directly in a folder, by name."""

    def __init__(self, request: DatasetRequest) -> None:
        """Raises:
        DataError: no such folder, or a file in it is not a readable image.
        """
        one = request.images_path if request.split == "prediction" else None
        alone = [one] if one is not None and one.is_file() else None
        folder = required_folder(request.images_path, f"{request.split}_path") if alone is None else None
        complaints = Complaints(request)
        self.class_names = request.class_names or ()
        self._keep_alpha = request.keep_alpha
        self._images: list[tuple[Path, tuple[int, int]]] = []
        measure = verify_image if complaints.skip else image_size
        inside = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder else []
        for path in alone or inside:
            try:
                self._images.append((path, measure(path)))
            except DataError as error:
                complaints.add("unreadable images", error.message)
        complaints.settle()

    def __len__(self) -> int:
        return len(self._images)

    def annotation(self, index: int) -> Annotation:
        path, (height, width) = self._images[index]
        nothing = np.zeros(0, np.float32)
        boxes, labels, ignore = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
        return Annotation(range(len(self))[index], path, height, width, boxes, labels, ignore, nothing)

    def read_image(self, index: int) -> np.ndarray:
        return self.read_reduced(index, 1)

    def read_reduced(self, index: int, factor: int) -> np.ndarray:
        return read_image(self._images[index][0], self._keep_alpha, factor)
