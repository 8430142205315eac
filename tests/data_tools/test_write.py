"""`data convert`, `subset` and `synth`: what comes out, what is left alone, and that failures leave nothing."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from reporters import Notes

from stdet import api
from stdet.errors import ArtifactError, DataError, PluginError
from stdet.interfaces.dataset import DetectionDataset
from stdet.interfaces.reporter import SilentReporter

SHARED = Path(os.environ.get("STDET_SHARED", Path(__file__).parents[3] / "shared"))
QUIET = SilentReporter()


def synth(folder: Path, to: str = "coco", *overrides: str) -> dict[str, Any]:
    keys = ["dataset.dataset_name=synthetic", "dataset.num_images=12", "dataset.image_size=64", *overrides]
    return api.write_data(api.load_data_config(None, keys), QUIET, folder, to=to).document


def opened(config: Path, split: str = "train") -> DetectionDataset:
    from stdet.build import Builder
    from stdet.plugins.loader import load_plugins

    builder = Builder(api.load_data_config(config), load_plugins()[0])
    return builder.dataset(split, builder.class_names())


def facts(dataset: DetectionDataset) -> list[Any]:
    """What must survive any conversion, by image name."""
    rows = []
    for index in range(len(dataset)):
        a = dataset.annotation(index)
        assert a.path is not None
        names = [dataset.class_names[label] for label in a.labels]
        rows.append(
            (a.path.name, a.height, a.width, sorted(zip(names, a.boxes.tolist(), a.ignore.tolist(), strict=True)))
        )
    return sorted(rows)


def digest(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


PATHS = [("coco", "voc", "coco"), ("voc", "yolo", "voc"), ("yolo", "coco", "yolo"), ("coco", "yolo", "voc", "coco")]


@pytest.mark.parametrize("path", PATHS, ids="-".join)
def test_a_round_trip_gives_the_same_boxes_and_classes(tmp_path: Path, path: tuple[str, ...]) -> None:
    synth(tmp_path / "0", path[0])
    before = digest(tmp_path / "0")
    for step, to in enumerate(path[1:], 1):
        config = api.load_data_config(tmp_path / str(step - 1) / "dataset.yaml")
        api.write_data(config, QUIET, tmp_path / str(step), to=to, image_files="link" if to == "yolo" else "reference")
    for split in ("train", "val", "test"):
        first, last = (tmp_path / str(step) / "dataset.yaml" for step in (0, len(path) - 1))
        assert facts(opened(first, split)) == facts(opened(last, split))
    assert digest(tmp_path / "0") == before


@pytest.mark.parametrize("set_", ["coco", "voc"])
def test_real_photographs_go_round_without_loss(tmp_path: Path, set_: str) -> None:
    root = SHARED / "data"
    if not root.is_dir():
        pytest.skip("the shared photographs aren't here")
    voc = root / "bccd/VOCdevkit/VOC2007"
    paths = {
        "coco": api.DataPaths(
            "coco", root / "tiny_coco/val2017", root / "tiny_coco/annotations/instances_val2017.json"
        ),
        "voc": api.DataPaths("voc", voc / "JPEGImages", voc / "Annotations", voc / "ImageSets/Main/val.txt"),
    }[set_]
    source = api.load_data_config(None, ["dataset.on_bad_data=skip"], paths)
    notes = Notes()
    there = "voc" if set_ == "coco" else "coco"
    result = api.write_data(source, notes, tmp_path / "there", to=there)
    api.write_data(api.load_data_config(tmp_path / "there/dataset.yaml"), QUIET, tmp_path / "back", to=set_)
    first, last = (facts(opened(tmp_path / name / "dataset.yaml")) for name in ("there", "back"))
    assert first == last
    assert len(first) == result.document["splits"]["train"]["images"] > 40
    assert any("areas of masks" in line for line in notes.notes) == (there == "voc")


def test_generated_images_are_written_with_their_boxes(tmp_path: Path) -> None:
    document = synth(tmp_path / "out", "voc", "dataset.class_names=[disc, star]")
    assert document["class_names"] == ["disc", "star"]
    assert {name: s["images"] for name, s in document["splits"].items()} == {"train": 12, "val": 3, "test": 3}
    dataset = opened(tmp_path / "out/dataset.yaml")
    assert dataset.read_image(0).shape == (64, 64, 3)
    assert sum(len(dataset.annotation(i).labels) for i in range(12)) == document["splits"]["train"]["boxes"] > 0


def test_a_subset_of_one_class_has_ids_from_zero_and_only_its_images(tmp_path: Path) -> None:
    synth(tmp_path / "all")
    config = api.load_data_config(tmp_path / "all/dataset.yaml")
    whole = opened(tmp_path / "all/dataset.yaml")
    star = whole.class_names.index("star")
    having = [whole.annotation(i).image_id for i in range(12) if star in whole.annotation(i).labels]
    assert 0 < len(having) < 12
    api.write_data(config, QUIET, tmp_path / "star", classes=("star",))
    found = json.loads((tmp_path / "star/annotations/instances_train.json").read_text())
    assert found["categories"] == [{"id": 0, "name": "star"}]
    assert {a["category_id"] for a in found["annotations"]} == {0}
    assert [i["id"] for i in found["images"]] == having
    kept = api.write_data(config, QUIET, tmp_path / "kept", classes=("star",), keep_empty=True).document
    assert kept["splits"]["train"]["images"] == 12
    assert kept["splits"]["train"]["boxes"] == len(found["annotations"])


def test_classes_get_their_labels_in_the_order_asked_for(tmp_path: Path) -> None:
    synth(tmp_path / "all")
    api.write_data(
        api.load_data_config(tmp_path / "all/dataset.yaml"), QUIET, tmp_path / "two", classes=("star", "disc")
    )
    whole, two = opened(tmp_path / "all/dataset.yaml"), opened(tmp_path / "two/dataset.yaml")
    assert two.class_names == ("star", "disc")
    wanted = [(n, h, w, [o for o in objects if o[0] in ("star", "disc")]) for n, h, w, objects in facts(whole)]
    assert facts(two) == [row for row in wanted if row[3]]


def test_a_draw_depends_on_the_seed_alone(tmp_path: Path) -> None:
    synth(tmp_path / "all")
    config = api.load_data_config(tmp_path / "all/dataset.yaml")

    def draw(name: str, **selection: Any) -> list[str]:
        api.write_data(config, QUIET, tmp_path / name, split="train", **selection)
        return [row[0] for row in facts(opened(tmp_path / name / "dataset.yaml"))]

    four = draw("a", count=4, seed=1)
    assert len(four) == 4
    assert draw("b", count=4, seed=1) == four
    assert draw("c", count=4, seed=2) != four
    assert len(draw("d", fraction=0.5)) == 6
    assert len(draw("e", count=99)) == 12


@pytest.mark.parametrize("mode", ["link", "copy"])
def test_images_go_along_when_asked(tmp_path: Path, mode: Any) -> None:
    synth(tmp_path / "all")
    config = api.load_data_config(tmp_path / "all/dataset.yaml")
    api.write_data(config, QUIET, tmp_path / "moved", to="voc", image_files=mode)
    source = tmp_path / "all/train/train_000000.png"
    target = tmp_path / "moved/train/JPEGImages/train_000000.png"
    assert target.read_bytes() == source.read_bytes()
    assert target.samefile(source) == (mode == "link")
    assert opened(tmp_path / "moved/dataset.yaml").annotation(0).path == target


def test_annotations_without_images_can_be_converted_where_they_say_the_size(tmp_path: Path) -> None:
    synth(tmp_path / "all")
    for picture in (tmp_path / "all/train").iterdir():
        picture.unlink()
    config = api.load_data_config(tmp_path / "all/dataset.yaml")
    assert api.write_data(config, QUIET, tmp_path / "voc", to="voc").document["splits"]["train"]["images"] == 12
    with pytest.raises(DataError, match="12 missing images"):
        api.write_data(config, QUIET, tmp_path / "copy", to="voc", image_files="copy")
    assert not (tmp_path / "copy").exists()


def spoil(folder: Path) -> None:
    path = folder / "annotations/instances_train.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["bbox"] = [500, 500, 5, 5]
    path.write_text(json.dumps(document))


def test_faults_stop_or_are_left_out_as_the_config_says(tmp_path: Path) -> None:
    boxes = synth(tmp_path / "all")["splits"]["train"]["boxes"]
    spoil(tmp_path / "all")
    config = api.load_data_config(tmp_path / "all/dataset.yaml")
    with pytest.raises(DataError, match=r"1 boxes outside.*annotations\[0\]"):
        api.write_data(config, QUIET, tmp_path / "out", to="voc")
    assert [p.name for p in tmp_path.iterdir()] == ["all"]
    notes = Notes()
    config = api.load_data_config(tmp_path / "all/dataset.yaml", ["dataset.on_bad_data=skip"])
    done = api.write_data(config, notes, tmp_path / "out", to="voc").document
    assert done["splits"]["train"]["boxes"] == boxes - 1
    assert any("left out 1 boxes outside" in line for line in notes.notes)


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path: Path) -> None:
    synth(tmp_path / "all")
    config = api.load_data_config(tmp_path / "all/dataset.yaml")
    with pytest.raises(ArtifactError, match="exists already"):
        api.write_data(config, QUIET, tmp_path / "all", to="voc")
    with pytest.raises(DataError, match="no class 'horse'"):
        api.write_data(config, QUIET, tmp_path / "out", classes=("horse",))
    with pytest.raises(PluginError, match=r"no data set can be written as `folder`"):
        api.write_data(config, QUIET, tmp_path / "out", to="folder")
    with pytest.raises(DataError, match="not both"):
        api.write_data(config, QUIET, tmp_path / "out", count=3, fraction=0.5)
    assert [p.name for p in tmp_path.iterdir()] == ["all"]


def test_classes_that_only_another_split_has_are_kept(tmp_path: Path) -> None:
    synth(tmp_path / "all", "voc")
    config = tmp_path / "bare.yaml"  # without class_names, each split of a VOC set has the classes it happens to have
    lines = (tmp_path / "all/dataset.yaml").read_text().splitlines()
    config.write_text("\n".join(line for line in lines if not line.startswith(("  - ", "  class_names"))))
    done = api.write_data(api.load_data_config(config), QUIET, tmp_path / "out", to="coco").document
    for split in ("train", "val", "test"):
        assert facts(opened(tmp_path / "out/dataset.yaml", split)) == facts(
            opened(tmp_path / "all/dataset.yaml", split)
        )
    assert set(done["class_names"]) <= {"disc", "square", "triangle", "ring", "star", "cross"}


def test_yolo_takes_its_images_along_since_it_cannot_list_them(tmp_path: Path) -> None:
    synth(tmp_path / "all")
    config = api.load_data_config(tmp_path / "all/dataset.yaml")
    with pytest.raises(DataError, match="has no list of images") as caught:
        api.write_data(config, QUIET, tmp_path / "yolo", to="yolo")
    assert "--image-files link" in caught.value.hint
    api.write_data(config, QUIET, tmp_path / "yolo", to="yolo", count=3, image_files="link")
    assert len(opened(tmp_path / "yolo/dataset.yaml")) == 3


def test_relative_paths_and_lists_that_know_their_folders_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synth(tmp_path / "all", "voc")
    monkeypatch.chdir(tmp_path)
    paths = api.DataPaths("voc", Path("all/train/JPEGImages"), Path("all/train/Annotations"))
    api.write_data(api.load_data_config(None, (), paths), QUIET, Path("one"), to="coco")
    api.write_data(
        api.load_data_config(None, (), api.DataPaths("voc", names=Path("all/train/ImageSets/Main/train.txt"))),
        QUIET,
        Path("two"),
        to="coco",
    )
    whole = facts(opened(tmp_path / "all/dataset.yaml"))
    assert facts(opened(Path("one/dataset.yaml"))) == facts(opened(Path("two/dataset.yaml"))) == whole


def test_objects_of_other_classes_are_no_fault_but_told(tmp_path: Path) -> None:
    synth(tmp_path / "all")
    notes = Notes()
    config = api.load_data_config(tmp_path / "all/dataset.yaml", ["dataset.class_names=[disc]"])
    assert api.write_data(config, notes, tmp_path / "out", to="voc").document["class_names"] == ["disc"]
    assert any("objects of other classes" in line and "class_names" in line for line in notes.notes)


def test_a_subset_is_what_the_guides_script_makes_by_hand(tmp_path: Path) -> None:
    root = SHARED / "data/tiny_coco"
    if not root.is_dir():
        pytest.skip("tiny_coco isn't here")
    source = root / "annotations/instances_val2017.json"
    document = json.loads(source.read_text())
    persons = [a for a in document["annotations"] if a["category_id"] == 1]
    paths = api.DataPaths("coco", root / "val2017", source, split="val")
    api.write_data(api.load_data_config(None, (), paths), QUIET, tmp_path / "out", classes=("person",))
    found = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())

    def plain(a: dict[str, Any]) -> tuple[Any, ...]:
        return a["image_id"], *(round(v, 2) for v in a["bbox"]), a["iscrowd"], round(a["area"], 2)

    assert found["categories"] == [{"id": 0, "name": "person"}]
    assert {a["category_id"] for a in found["annotations"]} == {0}
    assert {i["id"] for i in found["images"]} == {a["image_id"] for a in persons}
    for one, other in zip(sorted(map(plain, found["annotations"])), sorted(map(plain, persons)), strict=True):
        assert one == pytest.approx(other, abs=0.011)


def test_an_image_that_contradicts_its_annotation_stops_every_way_of_taking_it_along(tmp_path: Path) -> None:
    synth(tmp_path / "data")
    path = tmp_path / "data/train/train_000003.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 64)).save(path, exif=exif)
    change = json.loads((tmp_path / "data/annotations/instances_train.json").read_text())
    change["images"][3] |= {"width": 48, "height": 64}
    (tmp_path / "data/annotations/instances_train.json").write_text(json.dumps(change))
    config = api.load_data_config(tmp_path / "data/dataset.yaml")
    for number, files in enumerate(("copy", "link", "reference")):
        out = tmp_path / f"out{number}"
        with pytest.raises(DataError, match=r"1 images of another size .*its EXIF orientation \(6\) turns it"):
            api.write_data(config, QUIET, out, to="coco", image_files=files)
        assert not out.exists()
    exif[0x0112] = 9
    Image.new("RGB", (48, 64)).save(path, exif=exif)
    api.write_data(config, QUIET, tmp_path / "whole", to="coco", image_files="copy")
    assert len(opened(tmp_path / "whole/dataset.yaml")) == 12
