"""The images that int8 ranges come from, streamed one at a time and named by their hashes; noise in their place."""

from __future__ import annotations

import hashlib

import numpy as np

from stdet.data.preprocess import normalize, prepare
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.deploy import CalibrationCheck, CalibrationData
from stdet.quantizing.choice import Chosen
from stdet.structures import DetectorSpec

RANDOM = "random"


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
