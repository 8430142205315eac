"""`data check`: each fault is planted in a sound data set, and is found under its id, counted, with its place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stdet import api
from stdet.datatools.findings import CHECKS
from stdet.datatools.fingerprints import equal_groups, look_alikes
from stdet.interfaces.reporter import SilentReporter

QUIET = SilentReporter()
MODEL = ["model.model_name=st_yolodv2milli_actrelu_pt", "model.input_shape=[3, 64, 64]"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A sound data set with three splits, enough images to calibrate on, classes in balance."""
    keys = ["dataset.dataset_name=synthetic", "dataset.num_images=60", "dataset.image_size=96"]
    api.write_data(
        api.load_data_config(None, [*keys, "dataset.class_names=[disc, star]"]), QUIET, tmp_path / "data", to="coco"
    )
    return tmp_path / "data"


def check(data: Path, *overrides: str, **options: Any) -> api.RunResult:
    keys = [f"hydra.run.dir={json.dumps(str(data.parent / 'run'))}", *overrides]
    return api.check_data(api.load_data_config(data / "dataset.yaml", keys), QUIET, **options)


def findings(result: api.RunResult) -> dict[tuple[str, str], dict[str, Any]]:
    return {(f["id"], f["split"]): f for f in result.document["findings"] if f["id"] != "D103"}


def change(data: Path, edit: Callable[[dict[str, Any]], object], split: str = "train") -> None:
    path = data / f"annotations/instances_{split}.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def picture(data: Path, number: int, split: str = "train") -> Path:
    return data / split / f"{split}_{number:06d}.png"


def test_a_sound_set_has_no_fault_and_a_report(data: Path) -> None:
    result = check(data, *MODEL)
    assert not findings(result)
    assert not result.failed
    assert json.loads(Path(result.document["file"]).read_text())["findings"] == result.document["findings"]
    assert result.document["splits"]["train"] == {
        "images": 60,
        "objects": pytest.approx(150, abs=60),
        "images_read": True,
    }


def remove(data: Path) -> None:
    picture(data, 3).unlink()
    picture(data, 5).unlink()


def cut_off(data: Path) -> None:
    picture(data, 4).write_bytes(picture(data, 4).read_bytes()[:200])


def resize(data: Path) -> None:
    Image.new("RGB", (96, 90)).save(picture(data, 4))


def move_boxes(data: Path) -> None:
    change(data, lambda d: [a.update(bbox=[200, 0, 5, 5]) for a in d["annotations"][:3]])


def stretch(data: Path) -> None:
    change(data, lambda d: d["annotations"][0].update(bbox=[10, 10, 500, 30]))


def orphan(data: Path) -> None:
    change(data, lambda d: d["annotations"][0].update(image_id=999))


def unclassed(data: Path) -> None:
    change(data, lambda d: d["annotations"][0].update(category_id=999))


def flatten(data: Path) -> None:
    change(data, lambda d: d["annotations"][0].update(area=-3))


def break_json(data: Path) -> None:
    (data / "annotations/instances_val.json").write_text("{")


def one_class(data: Path) -> None:
    change(data, lambda d: [a.update(category_id=0) for a in d["annotations"]])


def crowds_alone(data: Path) -> None:
    change(data, lambda d: [a.update(iscrowd=1) for a in d["annotations"]], "val")


def list_twice(data: Path) -> None:
    change(data, lambda d: d["images"].append(d["images"][3] | {"id": 999}))


def no_box(data: Path) -> None:
    change(data, lambda d: d["annotations"][0].update(bbox=None))


def name_twice(data: Path) -> None:
    change(data, lambda d: d["categories"].append({"id": 99, "name": "star"}))


def list_fewer(data: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["categories"] = [c for c in document["categories"] if c["name"] == "disc"]
        document["annotations"] = [a for a in document["annotations"] if a["category_id"] == 0]

    change(data, edit, "test")


def few_stars(data: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        stars = [a for a in document["annotations"] if a["category_id"] == 1]
        for a in stars[1:]:
            a["category_id"] = 0

    change(data, edit)


def repeat(data: Path) -> None:
    change(data, lambda d: d["annotations"].append(d["annotations"][0] | {"id": 10_000}))


def copy_within(data: Path) -> None:
    shutil.copyfile(picture(data, 0), picture(data, 1))


def copy_to_test(data: Path) -> None:
    shutil.copyfile(picture(data, 0), picture(data, 1, "test"))


def copy_val_to_test(data: Path) -> None:
    shutil.copyfile(picture(data, 0, "val"), picture(data, 1, "test"))


def save_again(data: Path, split: str) -> None:
    image = np.asarray(Image.open(picture(data, 0))).astype(int) + 2
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(picture(data, 1, split))


def save_again_within(data: Path) -> None:
    save_again(data, "train")


def save_again_for_test(data: Path) -> None:
    save_again(data, "test")


@pytest.mark.parametrize(
    ("plant", "check_id", "split", "count", "place"),
    [
        (remove, "D001", "train", 2, "train_000003.png"),
        (cut_off, "D002", "train", 1, "train_000004.png"),
        (resize, "D003", "train", 1, "train_000004.png is 96 x 90, annotated as 96 x 96"),
        (move_boxes, "D004", "train", 3, "annotations[0]"),
        (stretch, "D014", "train", 1, "annotations[0]"),
        (flatten, "D006", "train", 1, "annotations[0]"),
        (orphan, "D007", "train", 1, "image_id 999"),
        (unclassed, "D008", "train", 1, "category_id 999"),
        (break_json, "D100", "val", 1, ""),
        (no_box, "D016", "train", 1, "annotations[0]"),
        (name_twice, "D018", "train", 1, "'star'"),
        (one_class, "D101", "train", 1, "star"),
        (few_stars, "D102", "train", 1, "star: 1"),
        (repeat, "D104", "train", 1, "["),
        (copy_within, "D201", "train", 1, "train_000000.png (train) = "),
        (copy_to_test, "D202", "train+test", 1, "test_000001.png (test)"),
        (copy_val_to_test, "D203", "val+test", 1, "val_000000.png (val) = "),
        (save_again_within, "D204", "train", 1, "train_000000.png (train) ~ "),
        (save_again_for_test, "D205", "train+test", 1, "train_000000.png (train) ~ "),
    ],
)
def test_a_planted_fault_is_found_counted_and_placed(
    data: Path, plant: Callable[[Path], None], check_id: str, split: str, count: int, place: str
) -> None:
    plant(data)
    result = check(data)
    found = [
        key for key in findings(result) if not key[0].startswith("D4")
    ]  # the calibration doctor's are tested below
    assert found == [(check_id, split)], findings(result)
    finding = findings(result)[check_id, split]
    assert finding["count"] == count
    assert finding["severity"] == CHECKS[check_id][1]
    assert any(place in example for example in finding["examples"]) or not place
    assert result.failed == (finding["severity"] == "error")
    assert any(row[1] == check_id for row in result.tables[0].rows)


@pytest.mark.parametrize(
    ("plant", "check_id", "split", "count", "beside"),
    [
        (crowds_alone, "D105", "val", 15, "D101"),
        (list_twice, "D015", "train", 1, "D201"),
        (list_fewer, "D019", "test", 1, "D101"),
    ],
)
def test_what_comes_with_another_finding_has_its_own(
    data: Path, plant: Callable[[Path], None], check_id: str, split: str, count: int, beside: str
) -> None:
    plant(data)
    result = check(data)
    assert {key for key in findings(result) if key[0] < "D4"} == {(check_id, split), (beside, split)}
    finding = findings(result)[check_id, split]
    assert (finding["count"], finding["severity"]) == (count, CHECKS[check_id][1])
    assert result.failed == (finding["severity"] == "error")


def test_small_objects_are_told_per_class_at_the_input_size_of_the_model(data: Path) -> None:
    """At 96 px the finest cell of the model is 8 px, which no shape is smaller than; shrink the stars of some images."""
    stride = 8

    def edit(document: dict[str, Any]) -> None:
        stars = [a for a in document["annotations"] if a["category_id"] == 1]
        for a in stars[:10]:
            a["bbox"][2:] = [stride - 0.5, 30]
        for a in stars[10:]:
            a["bbox"][2:] = [stride + 0.5, 30]
        document["annotations"] = [a for a in document["annotations"] if a["category_id"] == 0] + stars

    change(data, edit)
    stars = sum(
        a["category_id"] == 1
        for a in json.loads((data / "annotations/instances_train.json").read_text())["annotations"]
    )
    model = [MODEL[0], "model.input_shape=[3, 96, 96]"]
    finding = findings(check(data, *model))["D301", "train"]
    assert finding["count"] == 10
    assert finding["values"]["share_per_class"] == {"disc": 0, "star": pytest.approx(10 / stars)}
    assert ("D301", "train") not in findings(check(data, MODEL[0], "model.input_shape=[3, 128, 128]"))


def test_ssd_calls_objects_small_that_no_prior_fits(data: Path) -> None:
    model = ["model.model_name=ssdlite_mobilenetv3small_pt", "model.input_shape=[3, 300, 300]"]
    usual = findings(check(data, *model)).get(("D301", "train"), {"count": 0})["count"]
    change(
        data, lambda d: [a.update(bbox=[20, 20, 6, 6]) for a in d["annotations"][:7]]
    )  # 19 px where the least prior has 60
    assert findings(check(data, *model))["D301", "train"]["count"] >= usual + 5


def test_a_model_that_contradicts_the_classes_is_a_finding(data: Path) -> None:
    lines = (data / "dataset.yaml").read_text().splitlines()
    (data / "dataset.yaml").write_text(
        "\n".join(x for x in lines if "class_names" not in x and not x.startswith("  -"))
    )
    assert "num_classes is 7" in findings(check(data, *MODEL, "model.num_classes=7"))["D302", "train"]["message"]


def test_calibration_images_are_judged(data: Path) -> None:
    few = findings(check(data, "dataset.quantization_split=0.1"))
    assert few["D401", "train"]["count"] == 6
    folder = data / "calibration"
    folder.mkdir()
    shutil.copyfile(picture(data, 2, "test"), folder / "a.png")
    Image.effect_noise((96, 96), 50).save(folder / "b.png")
    key = f"dataset.quantization_path={folder}"
    judged = findings(check(data, key))
    assert judged["D403", "quantization+test"]["examples"] == [str(folder / "a.png")]
    assert judged["D401", "quantization"]["count"] == 2
    (folder / "a.png").unlink()
    assert ("D404", "quantization") in findings(check(data, key))
    shutil.copyfile(folder / "b.png", folder / "c.png")
    assert findings(check(data, key))["D405", "quantization"]["examples"] == [f"{folder}/b.png = {folder}/c.png"]
    for imageless in ("quantization.random_calibration=2", "quantization.operating_mode=normalise"):
        told = findings(check(data, key, imageless))
        assert not [check_id for check_id, _ in told if check_id.startswith("D4")], imageless


def test_classes_that_calibration_never_shows_are_named(data: Path) -> None:
    document = json.loads((data / "annotations/instances_train.json").read_text())
    without = {i["id"] for i in document["images"]} - {
        a["image_id"] for a in document["annotations"] if a["category_id"] == 1
    }
    folder = data / "calibration"
    folder.mkdir()
    for number in sorted(without):
        shutil.copyfile(picture(data, number), folder / f"{number}.png")
    finding = findings(check(data, f"dataset.quantization_path={folder}"))["D402", "quantization"]
    assert finding["examples"] == ["star"]


def test_classes_that_the_config_leaves_out_are_counted(data: Path) -> None:
    finding = findings(check(data, "dataset.class_names=[star]"))["D010", "train"]
    document = json.loads((data / "annotations/instances_train.json").read_text())
    assert finding["count"] == sum(a["category_id"] == 0 for a in document["annotations"])
    assert finding["severity"] == "info"


@pytest.mark.parametrize(
    ("text", "check_id"), [("0 0.5 0.5 0.2\n", "D011"), ("7 0.5 0.5 0.2 0.2\n", "D011"), ("0 0.5 0.5 0 0.2\n", "D004")]
)
def test_faults_of_yolo_labels_have_their_ids(data: Path, text: str, check_id: str) -> None:
    source = api.load_data_config(data / "dataset.yaml")
    api.write_data(source, QUIET, data.parent / "yolo", to="yolo", image_files="copy")
    yolo = data.parent / "yolo"
    (yolo / "labels/train/train_000000.txt").write_text(text)
    assert findings(check(yolo))[check_id, "train"]["count"] == 1
    (yolo / "images/train/train_000001.png").unlink()
    assert findings(check(yolo))["D013", "train"]["count"] == 1
    shutil.copyfile(yolo / "images/train/train_000002.png", yolo / "images/train/train_000002.jpg")
    assert findings(check(yolo))["D012", "train"]["count"] == 1


def test_without_images_only_the_annotations_are_looked_at(data: Path) -> None:
    copy_to_test(data)
    cut_off(data)
    result = check(data, read_images=False)
    assert not findings(result)
    assert not result.document["splits"]["train"]["images_read"]


def test_a_single_split_can_be_checked_by_its_paths(data: Path) -> None:
    copy_within(data)
    paths = api.DataPaths("coco", data / "train", data / "annotations/instances_train.json", split="val")
    config = api.load_data_config(None, [f"hydra.run.dir={data.parent}/run"], paths)
    assert list(findings(api.check_data(config, QUIET))) == [("D201", "val")]


def test_look_alikes_are_those_of_slow_plain_python() -> None:
    rng = np.random.default_rng(5)
    looks = rng.integers(0, 1 << 64, 60, np.uint64)
    for row in range(20, 40):  # flip up to four bits of an earlier one
        flips = rng.choice(64, int(rng.integers(0, 5)), replace=False)
        looks[row] = int(looks[row - 20]) ^ sum(1 << int(b) for b in flips)
    plain = rng.random(60) < 0.1
    expected = [
        [i, j]
        for i in range(60)
        for j in range(i + 1, 60)
        if not (plain[i] or plain[j]) and (int(looks[i]) ^ int(looks[j])).bit_count() <= 3
    ]
    pairs, left_out = look_alikes(looks, plain)
    assert pairs.tolist() == expected
    assert len(expected) > 5
    assert left_out == 0


def test_equal_digests_are_grouped() -> None:
    digests = np.array([[1, 2], [3, 4], [1, 2], [1, 3], [3, 4], [1, 2]], np.uint64)
    assert [g.tolist() for g in equal_groups(digests)] == [[0, 2, 5], [1, 4]]
    assert equal_groups(digests[:0]) == []
