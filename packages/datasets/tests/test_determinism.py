"""Training samples of the real recipes depend on the seed alone, and the strong ones end exactly where they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stdet.data.loader import Batch, TrainLoader
from stdet.interfaces.dataset import DatasetRequest
from stdet.interfaces.transform import Transform
from stdet.structures import Preprocess
from stdet_datasets.coco import CocoDataset
from stdet_datasets.options import SyntheticOptions, YoloxAugmentation
from stdet_datasets.ssd_recipe import SsdRecipe
from stdet_datasets.synthetic import SyntheticDataset, write_coco
from stdet_datasets.yolox_recipe import YoloxRecipe

SIZES = YoloxAugmentation(multiscale_range=1).sizes((64, 64))
KINDS: list[tuple[Transform, dict[str, Any]]] = [
    (YoloxRecipe(YoloxAugmentation(enable_mixup=True, mosaic_prob=0.7)), {}),
    (YoloxRecipe(YoloxAugmentation(enable_mixup=True)), {"sizes": SIZES, "recent_partners": 6}),
    (YoloxRecipe(), {"cache_images": "ram"}),
    (SsdRecipe(), {}),
    (SsdRecipe(), {"cache_images": "disk"}),
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    """JPEG files large enough to be decoded at half and at a quarter of their size."""
    folder = tmp_path_factory.mktemp("set")
    options = SyntheticOptions(num_images=22, image_size=256)
    path = write_coco(SyntheticDataset(DatasetRequest("train", options=options)), folder, "train")
    text = path.read_text()
    for image in sorted((folder / "train").iterdir()):
        if image.suffix != ".jpg":
            Image.open(image).convert("RGB").save(image.with_suffix(".jpg"), quality=95)
            text = text.replace(image.name, image.with_suffix(".jpg").name)
    path.write_text(text)
    return CocoDataset(DatasetRequest("train", folder / "train", path))


def loader(dataset: CocoDataset, recipe: Transform, workers: int = 0, seed: int = 7, **options: Any) -> TrainLoader:
    preprocess = Preprocess(64, 64, "letterbox", color_mode="bgr")
    return TrainLoader(
        dataset,
        recipe,
        preprocess,
        batch_size=4,
        seed=seed,
        epochs=6,
        no_aug_epochs=2,
        num_workers=workers,
        **options,
    )


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.indices == b.indices
        and torch.equal(a.images, b.images)
        and torch.equal(a.targets.boxes, b.targets.boxes)
        and torch.equal(a.targets.labels, b.targets.labels)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(("recipe", "options"), KINDS)
def test_the_seed_decides_with_any_workers_and_across_a_resume(
    photographs: CocoDataset,
    recipe: Transform,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STDET_CACHE", str(tmp_path))
    whole = list(loader(photographs, recipe, **options).epoch(1))
    for workers in (1, 3):
        assert same(whole, list(loader(photographs, recipe, workers, **options).epoch(1)))
    assert same(whole[3:], list(loader(photographs, recipe, 3, **options).epoch(1, start_step=3)))
    assert not same(whole, list(loader(photographs, recipe, seed=8, **options).epoch(1)))
    assert not same(whole, list(loader(photographs, recipe, **options).epoch(2)))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_last_epochs_are_whole_upright_images_in_all_workers(photographs: CocoDataset, workers: int) -> None:
    """Epochs 4 and 5 of 6 are closed; 3 isn't. One loader goes through all, as the trainer does."""
    plain = YoloxRecipe(YoloxAugmentation(hsv_prob=0, flip_prob=0, enable_mixup=True, mixup_prob=0.5))
    made = loader(photographs, plain, workers, sizes=SIZES)
    for epoch in range(3, 6):
        for batch in made.epoch(epoch):
            upright = [
                bool(
                    np.array_equal(
                        np.sort(boxes[labels >= 0].numpy(), axis=0),
                        np.sort(photographs.sample(index).boxes * np.float32(0.25), axis=0),
                    )
                )
                for index, boxes, labels in zip(batch.indices, batch.targets.boxes, batch.targets.labels, strict=True)
            ]
            bare = [not len(photographs.sample(index).labels) for index in batch.indices]
            if epoch < 4:
                assert not any(u and not b for u, b in zip(upright, bare, strict=True))
            else:
                assert all(upright)
                assert batch.images.shape[2:] == (64, 64)
