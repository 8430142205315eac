"""Which class names must be known: those that the user wrote, against typos; not those of weights or a training set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset
from stdet_datasets.coco import CocoDataset
from stdet_datasets.synthetic import SyntheticDataset
from stdet_datasets.voc import VocDataset
from stdet_datasets.yolo import YoloDataset

Open = Callable[..., DetectionDataset]


def coco(folder: Path, split: str, **request: Any) -> DetectionDataset:
    """One person and one dog."""
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": n, "bbox": [1, 2, 3, 4]} for n in (1, 2)],
    }
    (folder / "a.json").write_text(json.dumps(document))
    return CocoDataset(DatasetRequest(split, folder, folder / "a.json", **request))


def voc(folder: Path, split: str, **request: Any) -> DetectionDataset:
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in ("person", "dog"))
    (folder / "a.xml").write_text(f"<annotation>{objects}</annotation>")
    return VocDataset(DatasetRequest(split, folder, folder, **request))


def yolo(folder: Path, split: str, **request: Any) -> DetectionDataset:
    (folder / "data.yaml").write_text("names: [person, dog]")
    (folder / "a.txt").write_text("0 .5 .5 .5 .5\n1 .5 .5 .5 .5")
    return YoloDataset(DatasetRequest(split, folder, **request))


@pytest.fixture(params=[coco, voc, yolo])
def open_set(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    return lambda split, **keys: request.param(tmp_path, split, **keys)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_names_of_weights_may_be_missing(open_set: Open, split: str) -> None:
    names = ("bicycle", "dog", "persons")
    dataset = open_set(split, class_names=names, guard_names=False)
    assert dataset.class_names == names
    assert dataset.annotation(0).labels.tolist() == [1]
    assert any("1 objects of other classes" in note for note in dataset.notes)
    assert open_set(split, class_names=("x", "x"), guard_names=False).class_names == ("x", "x")


@pytest.mark.parametrize("split", ["val", "test"])
def test_names_that_the_user_wrote_may_be_missing_outside_the_training_set(open_set: Open, split: str) -> None:
    dataset = open_set(split, class_names=("bicycle", "person", "dog", "zebra"))
    assert dataset.annotation(0).labels.tolist() == [1, 2]


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("typo", ["persn", "Person", "per son", "persons"])
def test_a_name_that_looks_like_one_that_would_be_left_out_is_a_typo(open_set: Open, split: str, typo: str) -> None:
    with pytest.raises(DataError, match=rf"has '{typo}', .* did you mean 'person' instead of '{typo}'"):
        open_set(split, class_names=("dog", typo))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_names_of_which_none_is_known_are_a_mistake(open_set: Open, split: str) -> None:
    with pytest.raises(DataError, match="'zebra'"):
        open_set(split, class_names=("zebra", "bicycle"))


def test_a_name_that_the_training_set_does_not_list_is_a_mistake(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    for open_it in (coco, yolo):
        with pytest.raises(DataError, match="'zebra'"):
            open_it(tmp_path, "train", class_names=("dog", "zebra"))
    assert voc(tmp_path, "train", class_names=("dog", "zebra")).class_names == ("dog", "zebra"), "VOC lists no classes"


def test_classes_that_the_annotations_do_not_list_are_told(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    names = ("person", "dog", *(f"kind {n}" for n in range(78)))
    (note,) = coco(tmp_path, "val", class_names=names).notes
    assert "val set: 78 classes that the annotations don't list (no AP for kind 0, kind 1, " in note
    assert "and 68 more; " in note


def test_two_names_in_a_class_list_are_one_class(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "classes.txt").write_text("cat\ndog\ncat\n")
    (tmp_path / "a.txt").write_text("2 .5 .5 .5 .5\n1 .5 .5 .5 .5")
    dataset = YoloDataset(DatasetRequest("train", tmp_path))
    assert dataset.class_names == ("cat", "dog")
    assert dataset.annotation(0).labels.tolist() == [0, 1]
    assert any("1 classes of one name ('cat'" in note for note in dataset.notes)


def test_the_generated_set_shows_the_shapes_among_the_names_of_weights() -> None:
    dataset = SyntheticDataset(DatasetRequest("val", class_names=("car", "disc", "star"), guard_names=False))
    labels = {label for i in range(20) for label in dataset.annotation(i).labels.tolist()}
    assert labels == {1, 2}
    with pytest.raises(DataError, match="'car'"):
        SyntheticDataset(DatasetRequest("val", class_names=("car", "bus"), guard_names=False))
