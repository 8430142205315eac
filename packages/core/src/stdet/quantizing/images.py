"""The images that int8 ranges come from: chosen, and streamed one at a time."""

from __future__ import annotations

import hashlib

import numpy as np

from stdet.build import Builder
from stdet.data.preprocess import normalize, prepare
from stdet.errors import DataError
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.deploy import CalibrationCheck, CalibrationData
from stdet.structures import Annotation, DetectorSpec

RANDOM = "random"


class Chosen(DetectionDataset):
    """Some images of a data set.

    Attributes:
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
        return self.whole.read_image(int(self.indices[index]))


def choose(builder: Builder, spec: DetectorSpec) -> Chosen:
    """The images of `quantization_path`, else the training images; `quantization_split` takes that share of them.

    Raises:
        DataError: there is none.
    """
    section = builder.config.dataset
    folder = section.quantization_path
    if folder:
        whole = builder.image_folder("quantization", folder, spec=spec)
    else:
        whole = builder.dataset("train", spec.class_names, spec=spec)
    source = str(folder or section.train_images_path or section.dataset_name)
    chosen = Chosen(whole, builder.calibration_indices(len(whole)), source, annotated=folder is None)
    if not len(chosen):
        raise DataError(f"{source} holds no image to calibrate on", "set dataset.quantization_path")
    return chosen


def stream(chosen: Chosen, spec: DetectorSpec, checks: tuple[CalibrationCheck, ...] = ()) -> CalibrationData:
    """The images, preprocessed as `spec` says, and a hash of each."""

    def image(index: int) -> np.ndarray:
        pixels, _ = prepare(chosen.read_image(index), spec.preprocess)
        return normalize(pixels[None], spec.preprocess)

    hashes = image_hashes(chosen)
    return CalibrationData(image, len(chosen), combined(hashes), chosen.source, hashes, checks)


def noise(count: int, spec: DetectorSpec, seed: int) -> CalibrationData:
    """Noise in the range of pixels, preprocessed like images: ranges from it say nothing about accuracy."""
    preprocess = spec.preprocess
    shape = (1, preprocess.channels, *preprocess.size)

    def image(index: int) -> np.ndarray:
        return normalize(np.random.default_rng([seed, index]).integers(0, 256, shape, np.uint8), preprocess)

    return CalibrationData(image, count, hashlib.sha256(f"{seed} {shape}".encode()).hexdigest(), RANDOM)


def image_hashes(images: DetectionDataset) -> tuple[tuple[str, str], ...]:
    """(name, SHA-256) of each image's file, or of its pixels where it has none."""

    def one(index: int) -> tuple[str, str]:
        path = images.annotation(index).path
        data = path.read_bytes() if path else images.read_image(index).tobytes()
        return path.name if path else f"image {index}", hashlib.sha256(data).hexdigest()

    return tuple(one(index) for index in range(len(images)))


def combined(hashes: tuple[tuple[str, str], ...]) -> str:
    """One SHA-256 for all names and hashes."""
    return hashlib.sha256("\n".join(" ".join(pair) for pair in hashes).encode()).hexdigest()
