"""Every image of a folder, without annotations: for prediction and calibration."""

from __future__ import annotations

import numpy as np

from stdet.data.image_io import image_size
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest
from stdet_datasets.packed import Complaints, Objects, PackedDataset, required_folder, usable_image

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class FolderDataset(PackedDataset):
    """The images directly in a folder, by name."""

    def __init__(self, request: DatasetRequest) -> None:
        """Raises:
        DataError: no such folder, or a file in it is not a readable image.
        """
        folder = required_folder(request.images_path, f"{request.split}_path")
        complaints = Complaints(request)
        names, sizes = [], []
        for name in sorted(p.name for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
            if not usable_image(folder, name, None, complaints):
                continue
            try:
                sizes.append(image_size(folder / name))
            except DataError as error:
                complaints.add("unreadable images", error.message)
                continue
            names.append(name)
        complaints.settle()
        count = len(names)
        super().__init__(
            folder,
            request.class_names or (),
            names,
            np.arange(count),
            np.array(sizes, np.int32).reshape(-1, 2),
            np.zeros(count, np.int64),
            Objects.none(),
            keep_alpha=request.keep_alpha,
        )
