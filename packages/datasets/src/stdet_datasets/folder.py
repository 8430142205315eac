"""Every image of a folder, without annotations: for prediction and calibration."""

from __future__ import annotations

import numpy as np

from stdet.interfaces.dataset import DatasetRequest
from stdet_datasets.images import measure_images
from stdet_datasets.packed import Complaints, Objects, PackedDataset, pack, required_folder

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class FolderDataset(PackedDataset):
    """The images directly in a folder, by name."""

    def __init__(self, request: DatasetRequest) -> None:
        """Raises:
        DataError: no such folder, or a file in it is not a readable image.
        """
        folder = required_folder(request.images_path, f"{request.split}_path")
        complaints = Complaints(request)
        names = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
        sizes = measure_images(folder, names, whole=complaints.skip, complaints=complaints)
        complaints.settle()
        rows = np.flatnonzero((sizes > 0).all(1))
        used = [names[row] for row in rows.tolist()]
        packed = pack(
            request.class_names or (), used, np.arange(len(rows)), sizes[rows], np.zeros(0, np.int64), Objects.none()
        )
        super().__init__(folder, packed, keep_alpha=request.keep_alpha)
