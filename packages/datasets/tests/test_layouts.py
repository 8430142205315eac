"""What people's folders look like: each reader finds its own format, its sides, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stdet.errors import DataError
from stdet_datasets.layouts import find_coco, find_voc, find_yolo

XML = "<annotation><object><name>x</name></object></annotation>"


def put(root: Path, *names: str, text: str = "") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".jpg", ".png"):
            Image.new("RGB", (8, 8)).save(path)
        else:
            path.write_text(text)


def coco(*names: str) -> str:
    images = [{"id": i, "file_name": name, "width": 8, "height": 8} for i, name in enumerate(names)]
    return json.dumps({"info": {}, "images": images, "annotations": [], "categories": []})


def found(root: Path) -> dict[str, dict[str, Any]]:
    """What each reader finds, with paths inside `root`."""

    def inside(value: Any) -> Any:
        return [inside(v) for v in value] if isinstance(value, list) else value.relative_to(root).as_posix()

    def shown(keys: Mapping[str, Any]) -> dict[str, Any]:
        return {key: inside(value) for key, value in keys.items()}

    every = {"coco": find_coco(root), "voc": find_voc(root), "yolo": find_yolo(root)}
    return {name: shown(keys) for name, keys in every.items() if keys}


def test_vocs_own_layout_with_its_lists(tmp_path: Path) -> None:
    put(tmp_path, "VOC2007/JPEGImages/a.jpg")
    put(tmp_path, "VOC2007/Annotations/a.xml", text=XML)
    put(tmp_path, "VOC2007/ImageSets/Main/trainval.txt", "VOC2007/ImageSets/Main/test.txt", text="a")
    folders = {"images_path": "VOC2007/JPEGImages", "annotations_path": "VOC2007/Annotations"}
    lists = {"train": "VOC2007/ImageSets/Main/trainval.txt", "test": "VOC2007/ImageSets/Main/test.txt"}
    wanted = {f"{side}_{key}": value for side in lists for key, value in folders.items()}
    wanted |= {f"{side}_split": value for side, value in lists.items()}
    assert found(tmp_path) == {"voc": wanted}
    put(tmp_path, "VOC2007/ImageSets/Main/train.txt", "VOC2012/ImageSets/Main/train.txt", text="a")
    years = [f"VOC{year}/ImageSets/Main/train.txt" for year in (2007, 2012)]
    assert found(tmp_path)["voc"]["train_split"] == years
    assert "train_images_path" not in found(tmp_path)["voc"], "lists of several years know their folders"


def test_photographs_beside_their_xml_or_in_a_folder_of_their_own(tmp_path: Path) -> None:
    put(tmp_path / "one", "a.jpg", "b.png")
    put(tmp_path / "one", "a.xml", "b.xml", text=XML)
    assert found(tmp_path / "one") == {"voc": {"train_images_path": ".", "train_annotations_path": "."}}
    put(tmp_path / "two", "photographs/a.jpg", "other/c.jpg")
    put(tmp_path / "two", "boxes/a.xml", text=XML)
    wanted = {"train_images_path": "photographs", "train_annotations_path": "boxes"}
    assert found(tmp_path / "two") == {"voc": wanted}
    put(tmp_path / "two", "page/a.xml", text="<html/>")
    assert found(tmp_path / "two") == {"voc": wanted}, "XML of something else"


def test_exports_with_a_folder_for_each_side(tmp_path: Path) -> None:
    for side in ("train", "valid", "test"):
        put(tmp_path / "voc", f"{side}/a.jpg")
        put(tmp_path / "voc", f"{side}/a.xml", text=XML)
        put(tmp_path / "coco", f"{side}/a.jpg")
        put(tmp_path / "coco", f"{side}/_annotations.coco.json", text=coco("a.jpg"))
        put(tmp_path / "yolo", f"{side}/images/a.jpg")
        put(tmp_path / "yolo", f"{side}/labels/a.txt", text="0 .5 .5 .5 .5\n")
    put(tmp_path / "yolo", "data.yaml", text="names: [x]")
    sides = {"train": "train", "val": "valid", "test": "test"}
    assert found(tmp_path / "voc") == {
        "voc": {f"{s}_{k}": folder for s, folder in sides.items() for k in ("images_path", "annotations_path")}
    }
    json_file = "_annotations.coco.json"
    assert found(tmp_path / "coco")["coco"] == {
        **{f"{s}_images_path": folder for s, folder in sides.items()},
        **{f"{s}_annotations_path": f"{folder}/{json_file}" for s, folder in sides.items()},
    }
    assert found(tmp_path / "yolo") == {"yolo": {f"{s}_images_path": f"{f}/images" for s, f in sides.items()}}


def test_cocos_own_layout(tmp_path: Path) -> None:
    put(tmp_path, "train2017/a.jpg", "val2017/b.jpg")
    for kind in ("instances", "person_keypoints"):
        put(tmp_path, f"annotations/{kind}_train2017.json", text=coco("a.jpg"))
        put(tmp_path, f"annotations/{kind}_val2017.json", text=coco("b.jpg"))
    put(tmp_path, "annotations/captions_val2017.json", text='{"images": [{"file_name": "b.jpg"}], "annotations": []}')
    put(tmp_path, "results.json", text="[]")
    assert found(tmp_path) == {
        "coco": {
            "train_images_path": "train2017",
            "train_annotations_path": "annotations/instances_train2017.json",
            "val_images_path": "val2017",
            "val_annotations_path": "annotations/instances_val2017.json",
        }
    }


def test_ultralytics_layout_and_flat_folders(tmp_path: Path) -> None:
    for side in ("train", "val"):
        put(tmp_path / "one", f"images/{side}/day/a.jpg", f"images/{side}/night/b.jpg")
        put(tmp_path / "one", f"labels/{side}/day/a.txt", f"labels/{side}/night/b.txt", text="1 0.5 0.5 1e-1 .5")
    assert found(tmp_path / "one") == {"yolo": {f"{s}_images_path": f"images/{s}" for s in ("train", "val")}}
    put(tmp_path / "two", "a.jpg", "b.jpg")
    put(tmp_path / "two", "a.txt", text="")
    put(tmp_path / "two", "b.txt", text="0 .5 .5 .5 .5\n0 .1 .1 .1 .1\n")
    assert found(tmp_path / "two") == {"yolo": {"train_images_path": "."}}
    put(tmp_path / "two", "a.txt", text="a photograph of two cats\n")
    put(tmp_path / "two", "b.txt", text="another one\n")
    assert found(tmp_path / "two") == {}, "captions are no labels"


def test_two_sets_for_one_side_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "day/a.jpg", "night/b.jpg")
    put(tmp_path, "day/a.xml", "night/b.xml", text=XML)
    with pytest.raises(DataError, match="would both be the train set"):
        find_voc(tmp_path)


def test_strange_files_are_no_annotations(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", ".hidden/a.jpg")
    put(tmp_path, "a.json", text='{"images": 3}')
    put(tmp_path, "b.json", text="[" * 5000)
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "d.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "e.json").mkdir()
    assert found(tmp_path) == {}
