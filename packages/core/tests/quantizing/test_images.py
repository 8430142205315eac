"""Calibration images reach the target as the model was trained on them; noise has their range and says what it is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from stdet.data.preprocess import normalize, prepare
from stdet.interfaces.dataset import DetectionDataset
from stdet.quantizing.choice import Chosen
from stdet.quantizing.images import RANDOM, combined, image_hashes, noise, stream
from stdet.structures import Annotation, DetectorSpec, Preprocess

PREPROCESS = Preprocess(32, 48, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), color_mode="bgr")
SPEC = DetectorSpec("toy", "toy", ("a", "b"), PREPROCESS, "yolox", (32,))


class Photos(DetectionDataset):
    """Three noise images in a folder."""

    class_names = ("a", "b")

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / f"{seed}.png" for seed in range(3)]
        for seed, path in enumerate(self.paths):
            Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 72, 3), np.uint8)).save(path)

    def __len__(self) -> int:
        return len(self.paths)

    def annotation(self, index: int) -> Annotation:
        none = np.zeros(0)
        return Annotation(
            index, self.paths[index], 64, 72, none.reshape(0, 4), none.astype(int), none.astype(bool), none
        )

    def read_image(self, index: int) -> np.ndarray:
        return np.asarray(Image.open(self.paths[index]))


def test_the_stream_is_what_the_model_was_trained_on_and_names_its_images(tmp_path: Path) -> None:
    chosen = Chosen(Photos(tmp_path), np.array([2, 0]), "here")
    data = stream(chosen, SPEC)
    images = list(data.batches())
    assert len(images) == data.count == 2
    assert len(list(data.batches())) == 2  # a fresh stream each time
    pixels, _ = prepare(chosen.whole.read_image(2), PREPROCESS)
    assert np.array_equal(images[0], normalize(pixels[None], PREPROCESS))
    digest = hashlib.sha256((tmp_path / "2.png").read_bytes()).hexdigest()
    assert data.images[0] == ("2.png", digest)
    assert data.sha256 == combined(image_hashes(chosen)) != combined(data.images[:1])


def test_noise_has_the_range_of_pixels_and_is_called_random() -> None:
    data = noise(3, SPEC, seed=1)
    images = list(data.batches())
    assert [i.shape for i in images] == [(1, 3, 32, 48)] * 3
    ends = [np.array([0, 255]) * 1.0 for _ in range(3)]
    for channel, pixels in enumerate(ends):
        low, high = (pixels - PREPROCESS.mean[channel]) / PREPROCESS.std[channel]
        values = np.concatenate([i[0, channel].ravel() for i in images])
        assert low - 1e-4 <= values.min() < low + 3
        assert high - 3 < values.max() <= high + 1e-4
    assert data.source == RANDOM
    assert np.array_equal(images[1], list(noise(3, SPEC, seed=1).batches())[1])
    assert data.sha256 != noise(3, SPEC, seed=2).sha256
