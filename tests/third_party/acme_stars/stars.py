"""A reader that needs no path: it makes its images."""

from __future__ import annotations

import numpy as np

from acme_stars.facts import StarsOptions
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset
from stdet.structures import Annotation

SIDE = 80
SPLITS = ("train", "val", "test")


class Stars(DetectionDataset):
    """Bright squares of 20 pixels on dark images of 80; the same ones every time."""

    def __init__(self, request: DatasetRequest) -> None:
        options = request.options if isinstance(request.options, StarsOptions) else StarsOptions()
        self.class_names = request.class_names or ("star",)
        self._options, self._seed = options, SPLITS.index(request.split)

    def __len__(self) -> int:
        return self._options.skies

    def annotation(self, index: int) -> Annotation:
        count = self._options.stars
        corners = np.random.default_rng([self._seed, index]).integers(0, SIDE - 20, (count, 2))
        boxes = np.hstack([corners, corners + 20]).astype(np.float32)
        no, area = np.zeros(count, bool), np.full(count, 400, np.float32)
        return Annotation(index, None, SIDE, SIDE, boxes, np.zeros(count, np.int64), no, area)

    def read_image(self, index: int) -> np.ndarray:
        image = np.full((SIDE, SIDE, 3), 10, np.uint8)
        for x1, y1, x2, y2 in self.annotation(index).boxes.astype(int).tolist():
            image[y1:y2, x1:x2] = 240
        return image
