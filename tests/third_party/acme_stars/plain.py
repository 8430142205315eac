"""A recipe without augmentation."""

from __future__ import annotations

import cv2

from acme_stars.facts import PlainOptions
from stdet.interfaces.transform import Transform, TransformContext
from stdet.structures import Sample


class Plain(Transform):
    """The image, stretched to the network's input."""

    def __init__(self, options: PlainOptions) -> None:
        self._keep = options.keep_stars

    def __call__(self, sample: Sample, context: TransformContext) -> Sample:
        height, width = context.preprocess.size
        image = cv2.resize(sample.image, (width, height))
        scale = [width / sample.width, height / sample.height] * 2
        last = len(sample.labels) if self._keep else 0
        return Sample(image, (sample.boxes * scale).astype("float32")[:last], sample.labels[:last])
