"""What the keys of `dataset`, `preprocessing` and of the training samples do."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stdet.build import Builder
from stdet.data.loader import TrainLoader
from stdet.data.preprocess import normalize, prepare
from stdet.errors import DataError

Made = Callable[..., Builder]
COUNTS = {"train": 2, "val": 3, "test": 4}
XML = """<annotation><filename>{name}.png</filename><size><width>64</width><height>64</height><depth>3</depth></size>
<object><name>{label}</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>40</xmax><ymax>40</ymax></bndbox></object></annotation>
"""


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """Images, COCO files, VOC files and a list of one name for each of three splits of different lengths."""
    for split, count in COUNTS.items():
        for folder in (tmp_path / split, tmp_path / f"{split}_xml"):
            folder.mkdir()
        images, annotations = [], []
        for number in range(count):
            name = f"{split}_{number}"
            cv2.imwrite(str(tmp_path / split / f"{name}.png"), np.full((64, 64, 3), 10 * number, np.uint8))
            (tmp_path / f"{split}_xml" / f"{name}.xml").write_text(XML.format(name=name, label="square"))
            images.append({"id": number, "file_name": f"{name}.png", "width": 64, "height": 64})
            box = {"bbox": [5, 5, 35, 35], "area": 1225, "iscrowd": 0}
            annotations.append({"id": number + 1, "image_id": number, "category_id": 2} | box)
        categories = [{"id": 1, "name": "disc"}, {"id": 2, "name": "square"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / f"{split}.json").write_text(json.dumps(document))
        (tmp_path / f"{split}.txt").write_text(f"{split}_1\n")
    return tmp_path


def config(model: str, *lines: str) -> str:
    head = f"operation_mode: training\nmodel: {{ model_name: {model}, input_shape: [3, 64, 64] }}\ndataset:\n"
    return head + "".join(f"  {line}\n" for line in ("num_workers: 0", *lines))


def coco(splits: Path, *more: str) -> str:
    return config(
        "st_yolodv2milli_actrelu_pt",
        "dataset_name: coco",
        f"train_images_path: {splits}/train",
        f"train_annotations_path: {splits}/train.json",
        f"val_images_path: {splits}/val",
        f"val_annotations_path: {splits}/val.json",
        f"test_images_path: {splits}/test",
        f"test_annotations_path: {splits}/test.json",
        *more,
    )


@pytest.mark.parametrize("split", COUNTS)
def test_each_split_has_the_images_and_annotations_of_its_own_paths(splits: Path, made: Made, split: str) -> None:
    builder = made(text=coco(splits))
    found = builder.dataset(split, None)
    assert [Path(found.annotation(i).path or "").parent for i in range(len(found))] == [splits / split] * COUNTS[split]
    assert builder.evaluation_split() == "test"
    without = "\n".join(line for line in coco(splits).splitlines() if not line.startswith("  test_"))
    assert made(text=without).evaluation_split() == "val"
    wrong = coco(splits).replace(f"_annotations_path: {splits}/{split}.json", f"_annotations_path: {splits}/none.json")
    with pytest.raises(DataError, match=r"none\.json"):
        made(text=wrong).dataset(split, None)


@pytest.mark.parametrize("key", ["train_split", "val_split", "test_split"])
def test_a_list_of_names_chooses_the_images_of_its_split(splits: Path, made: Made, key: str) -> None:
    split = key.removesuffix("_split")
    lines = [
        f"{name}_{what}: {splits}/{name}{end}"
        for name in COUNTS
        for what, end in (("images_path", ""), ("annotations_path", "_xml"), ("split", ".txt"))
    ]
    text = config("st_yolodv2milli_actrelu_pt", "dataset_name: voc", "class_names: [square]", *lines)
    found = made(text=text).dataset(split, ("square",))
    assert [Path(found.annotation(i).path or "").name for i in range(len(found))] == [f"{split}_1.png"]


def test_the_classes_that_the_config_or_its_file_names_number_the_labels(splits: Path, made: Made) -> None:
    (splits / "names.txt").write_text("square\ndisc\n")
    for line in (f"classes_file_path: {splits}/names.txt", "class_names: [square, disc]"):
        builder = made(text=coco(splits, line))
        assert builder.dataset("train", builder.class_names()).annotation(0).labels.tolist() == [0]
    assert made(text=coco(splits)).dataset("train", None).annotation(0).labels.tolist() == [1]


def test_bad_data_ends_the_run_or_is_left_out(splits: Path, made: Made) -> None:
    (splits / "train" / "train_0.png").unlink()
    with pytest.raises(DataError, match="missing images"):
        made(text=coco(splits)).dataset("train", None)
    assert len(made(text=coco(splits, "on_bad_data: skip")).dataset("train", None)) == 1


def test_the_generated_set_has_the_number_size_and_objects_asked_for(made: Made) -> None:
    dataset = made("dataset.num_images=12", "dataset.image_size=72", "dataset.max_objects=1").dataset("train", None)
    assert len(dataset) == 12
    assert dataset.read_image(0).shape[:2] == (72, 72)
    assert max(len(dataset.annotation(i).labels) for i in range(12)) == 1
    usual = made("dataset.num_images=12").dataset("train", None)
    assert max(len(usual.annotation(i).labels) for i in range(12)) > 1


# --- training samples -------------------------------------------------------------------------------------------------

PLAIN = [
    "dataset.mosaic_prob=0", "dataset.hsv_prob=0", "dataset.flip_prob=0", "dataset.degrees=0", "dataset.translate=0",
    "dataset.shear=0", "dataset.mosaic_scale=[1, 1]", "training.no_aug_epochs=0",
]  # fmt: skip


def loader(builder: Builder) -> TrainLoader:
    dataset = builder.dataset("train", None)
    return builder.train_loader(dataset, builder.spec(dataset.class_names))


def pixels(loader: TrainLoader, epoch: int = 0) -> torch.Tensor:
    return torch.cat([batch.images for batch in loader.epoch(epoch)])


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("mosaic_prob", [], "1"),
        ("hsv_prob", [], "1"),
        ("flip_prob", [], "1"),
        ("degrees", ["mosaic_prob=1"], "30"),
        ("translate", ["mosaic_prob=1"], "0.3"),
        ("shear", ["mosaic_prob=1"], "15"),
        ("mosaic_scale", ["mosaic_prob=1"], "[0.3, 0.4]"),
        ("mosaic_view", ["mosaic_prob=1"], "corner"),
        ("mosaic_buffer", ["mosaic_prob=1"], "1"),
        ("enable_mixup", ["mosaic_prob=1"], "True"),
        ("mixup_prob", ["mosaic_prob=1", "enable_mixup=True"], "0"),
        ("mixup_scale", ["mosaic_prob=1", "enable_mixup=True"], "[0.2, 0.3]"),
        ("augmentation", None, "ssd"),
        ("seed", ["mosaic_prob=1"], "7"),
    ],
)
def test_each_key_of_the_samples_changes_them(made: Made, key: str, before: list[str] | None, after: str) -> None:
    given = [] if before is None else [*PLAIN, *(f"dataset.{one}" for one in before)]
    usual = pixels(loader(made(*given)))
    assert torch.equal(usual, pixels(loader(made(*given))))
    assert not torch.equal(usual, pixels(loader(made(*given, f"dataset.{key}={after}"))))


def test_the_last_epochs_without_strong_augmentation_show_whole_images(made: Made) -> None:
    strong = [*PLAIN[:-1], "dataset.mosaic_prob=1", "training.epochs=2"]
    closing, never = (loader(made(*strong, f"training.no_aug_epochs={count}")) for count in (1, 0))
    whole = loader(made(*PLAIN, "training.epochs=2"))
    assert torch.equal(pixels(closing, 1), pixels(whole, 1))
    assert torch.equal(pixels(closing, 0), pixels(never, 0))
    assert not torch.equal(pixels(closing, 1), pixels(never, 1))


def test_expansion_of_the_other_recipe_changes_its_samples(made: Made) -> None:
    never, always = (pixels(loader(made(f"dataset.expand_prob={p}", ssd=True))) for p in (0, 1))
    assert not torch.equal(never, always)


@pytest.mark.parametrize(("key", "sizes"), [("multiscale_range=1", {64, 96}), ("random_size=[5, 5]", {160})])
def test_batches_have_the_sizes_that_were_asked_for(made: Made, key: str, sizes: set[int]) -> None:
    found = loader(made("training.no_aug_epochs=0", f"dataset.{key}", "training.epochs=9"))
    shapes = {batch.images.shape[-1] for epoch in range(9) for batch in found.epoch(epoch)}
    assert sizes <= shapes <= {32, *sizes}


@pytest.mark.parametrize("count", [0, 2])
def test_num_workers_is_the_number_of_processes_that_read(made: Made, tmp_path: Path, count: int) -> None:
    builder = made(f"dataset.num_workers={count}", "training.batch_size=2")
    dataset = builder.dataset("train", None)
    read, log = dataset.read_image, tmp_path / "readers"

    def noted(index: int) -> np.ndarray:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return read(index)

    dataset.read_image = noted  # type: ignore[method-assign]
    list(builder.train_loader(dataset, builder.spec(dataset.class_names)).epoch(0))
    readers = set(log.read_text().split())
    assert len(readers) == max(1, count)
    assert (str(os.getpid()) in readers) == (count == 0)


@pytest.mark.parametrize(
    ("keys", "again"), [(["cache_images=ram"], 0), (["cache_images=ram", "cache_limit_gib=1e-9"], 8), ([], 8)]
)
def test_what_is_cached_is_not_read_again_within_the_limit(made: Made, keys: list[str], again: int) -> None:
    builder = made(*PLAIN, *(f"dataset.{key}" for key in keys))
    dataset = builder.dataset("train", None)
    read, calls = dataset.read_image, []

    def noted(index: int) -> np.ndarray:
        calls.append(index)
        return read(index)

    dataset.read_image = noted  # type: ignore[method-assign]
    batches = builder.train_loader(dataset, builder.spec(dataset.class_names))
    pixels(batches)
    calls.clear()
    pixels(batches, epoch=1)
    assert len(calls) == again


# --- preprocessing ----------------------------------------------------------------------------------------------------

IMAGE = np.zeros((48, 96, 3), np.uint8)
IMAGE[:] = (200, 100, 50)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["rescaling.scale=0.5"], (100, 50, 25)),
        (["rescaling.scale=1", "rescaling.offset=7"], (207, 107, 57)),
        (["mean=[1, 2, 3]"], (199, 98, 47)),
        (["mean=0", "std=[2, 4, 5]"], (100, 25, 10)),
        (["mean=0", "color_mode=bgr"], (50, 100, 200)),
    ],
)
def test_a_pixel_becomes_what_its_formula_says(made: Made, keys: list[str], expected: tuple[float, ...]) -> None:
    preprocess = made(*(f"preprocessing.{key}" for key in keys), ssd=True).spec(("a",)).preprocess
    seen = normalize(prepare(IMAGE, preprocess)[0][None], preprocess)
    assert seen[0, :, 10, 10].tolist() == pytest.approx(expected, abs=1e-4)


def test_the_aspect_ratio_decides_about_padding_and_pad_value_about_its_grey(made: Made) -> None:
    for mode, corner in (("fit", 100), ("crop", 100), ("letterbox", 9)):
        given = [f"preprocessing.resizing.aspect_ratio={mode}", "preprocessing.pad_value=9"]
        seen, _ = prepare(IMAGE, made(*given, ssd=True).spec(("a",)).preprocess)
        assert seen[1, -1, -1] == corner


def test_the_interpolation_decides_which_greys_an_enlarged_edge_has(made: Made) -> None:
    edge = np.zeros((24, 24, 3), np.uint8)
    edge[:, 12:] = 200
    greys = {}
    for kernel in ("nearest", "bilinear"):
        preprocess = made(f"preprocessing.resizing.interpolation={kernel}", ssd=True).spec(("a",)).preprocess
        greys[kernel] = set(np.unique(prepare(edge, preprocess)[0]).tolist())
    assert greys["nearest"] == {0, 200}
    assert greys["bilinear"] > {0, 200}
