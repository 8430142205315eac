"""One preprocessing: training, evaluation, calibration and the exported metadata obey the same keys."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from stdet.data.folder import ImageFolder
from stdet.data.loader import EvalLoader, TrainLoader
from stdet.data.preprocess import normalize
from stdet.interfaces.dataset import DatasetRequest
from stdet.quantizing.choice import Chosen
from stdet.quantizing.images import stream
from stdet.structures import ColorMode, DetectorSpec, Interpolation, Preprocess, ResizeMode
from stdet_datasets.options import YoloxAugmentation
from stdet_datasets.yolox_recipe import YoloxRecipe

CHANNELS = {"rgb": 3, "bgr": 3, "grayscale": 1, "rgba": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture with an alpha channel of its own."""
    path = tmp_path_factory.mktemp("images")
    small = np.random.default_rng(0).integers(0, 256, (9, 12, 4), np.uint8)
    Image.fromarray(small).resize((120, 90), Image.Resampling.BICUBIC).save(path / "a.png")
    return path


@pytest.mark.parametrize("colour", get_args(ColorMode))
@pytest.mark.parametrize("mode", get_args(ResizeMode))
@pytest.mark.parametrize("kernel", get_args(Interpolation))
def test_training_evaluation_calibration_and_metadata_agree(
    folder: Path, kernel: Interpolation, mode: ResizeMode, colour: ColorMode
) -> None:
    count = CHANNELS[colour]
    preprocess = Preprocess(64, 80, mode, kernel, 99, colour, 1 / 127.5, -1.0, mean=(0.1,) * count, std=(0.5,) * count)
    dataset = ImageFolder(DatasetRequest("train", folder, keep_alpha=colour == "rgba"))
    spec = DetectorSpec.from_dict(DetectorSpec("m", "t", ("a",), preprocess, "yolox", (8,)).to_dict())
    assert spec.preprocess == preprocess  # what the ONNX metadata carries
    evaluated = next(iter(EvalLoader(dataset, preprocess, 1))).images
    assert evaluated.shape == (1, count, 64, 80)
    recipe = YoloxRecipe(YoloxAugmentation(hsv_prob=0, flip_prob=0))
    trained = next(TrainLoader(dataset, recipe, preprocess, batch_size=1, seed=0, epochs=1, no_aug_epochs=1).epoch(0))
    assert torch.equal(trained.images, evaluated)
    calibrated = next(iter(stream(Chosen(dataset, np.array([0]), "here"), spec).batches()))
    np.testing.assert_array_equal(calibrated, normalize(evaluated.numpy(), preprocess))


@pytest.mark.parametrize("kernel", get_args(Interpolation))
def test_augmented_training_obeys_the_kernel(folder: Path, kernel: Interpolation) -> None:
    """Without turning or scaling, a warped image is the resized one, but for the precision of warps."""
    dataset = ImageFolder(DatasetRequest("train", folder))
    still = YoloxAugmentation(mosaic_prob=0, hsv_prob=0, flip_prob=0, degrees=0, shear=0, translate=0)
    made = {}
    for name in get_args(Interpolation):
        preprocess = Preprocess(200, 260, "fit", name)
        made[name] = next(
            TrainLoader(dataset, YoloxRecipe(still), preprocess, batch_size=1, seed=0, epochs=1).epoch(0)
        ).images.numpy()
    expected = next(iter(EvalLoader(dataset, Preprocess(200, 260, "fit", kernel), 1))).images.numpy()
    inner = np.s_[..., 8:-8, 8:-8]  # warps end half a pixel inside the border
    errors = {name: np.abs(image[inner].astype(int) - expected[inner]).mean() for name, image in made.items()}
    assert errors[kernel] <= (2.5 if kernel == "nearest" else 0.6)
    assert min(errors, key=lambda name: errors[name]) in (kernel, "bilinear" if kernel == "area" else kernel)


def test_the_alpha_of_a_file_reaches_the_network(folder: Path) -> None:
    alpha = np.asarray(Image.open(folder / "a.png"))[..., 3]
    preprocess = Preprocess(90, 120, "fit", color_mode="rgba", mean=(0.0,) * 4, std=(1.0,) * 4)
    dataset = ImageFolder(DatasetRequest("prediction", folder, keep_alpha=True))
    assert np.array_equal(next(iter(EvalLoader(dataset, preprocess, 1))).images[0, 3].numpy(), alpha)
    opaque = ImageFolder(DatasetRequest("prediction", folder))
    assert np.all(next(iter(EvalLoader(opaque, preprocess, 1))).images[0, 3].numpy() == 255)
