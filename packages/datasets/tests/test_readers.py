"""COCO, VOC, folder and synthetic readers: right labels and boxes, and a clear message for every kind of bad data."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from stdet.data.folder import ImageFolder
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, Fault
from stdet_datasets.coco import CocoDataset
from stdet_datasets.options import SyntheticOptions
from stdet_datasets.ssd_recipe import SsdRecipe
from stdet_datasets.synthetic import SHAPES, SyntheticDataset, write_coco
from stdet_datasets.voc import VocDataset
from stdet_datasets.yolox_recipe import YoloxRecipe

SHARED = Path(os.environ.get("STDET_SHARED", Path(__file__).parents[4] / "shared"))


def save_image(folder: Path, name: str, size: tuple[int, int] = (40, 60)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)).save(folder / name)


def coco_document() -> dict[str, Any]:
    """Two images; ids in no order; a crowd region; a box that sticks out."""
    return {
        "images": [
            {"id": 9, "file_name": "b.png", "height": 40, "width": 60},
            {"id": 3, "file_name": "a.png", "height": 40, "width": 60},
        ],
        "categories": [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {
                "image_id": 9,
                "category_id": 7,
                "bbox": [5, 6, 10, 20],
                "area": 150.0,
                "iscrowd": 0,
                "segmentation": [[1, 2]],
            },
            {"image_id": 9, "category_id": 2, "bbox": [50, 30, 20, 20], "area": 400, "iscrowd": 0},
            {"image_id": 9, "category_id": 2, "bbox": [0, 0, 60, 40], "area": 2400, "iscrowd": 1},
        ],
    }


def coco(tmp_path: Path, document: dict[str, Any] | str | None = None, **request: Any) -> CocoDataset:
    for name in ("a.png", "b.png"):
        if not (tmp_path / name).exists():
            save_image(tmp_path, name)
    path = tmp_path / "instances.json"
    document = coco_document() if document is None else document
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return CocoDataset(DatasetRequest("train", tmp_path, path, **request))


def test_coco_labels_follow_the_sorted_category_ids(tmp_path: Path) -> None:
    dataset = coco(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert [dataset.annotation(i).image_id for i in range(len(dataset))] == [3, 9]
    assert len(dataset.annotation(0).labels) == 0
    a = dataset.annotation(1)
    assert a.labels.tolist() == [1, 0, 0]
    assert a.boxes.tolist() == [[5, 6, 15, 26], [50, 30, 60, 40], [0, 0, 60, 40]]
    assert a.ignore.tolist() == [False, False, True]
    assert a.areas.tolist() == [150, 400, 2400]
    assert len(dataset.sample(1).labels) == 2


def test_coco_class_names_choose_and_order_the_labels(tmp_path: Path) -> None:
    dataset = coco(tmp_path, class_names=("dog",))
    assert dataset.annotation(1).labels.tolist() == [0]
    assert coco(tmp_path, class_names=("dog", "cat")).annotation(1).labels.tolist() == [0, 1, 1]


def test_a_class_that_the_annotations_lack_is_a_contradiction(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'horse'.*only: cat, dog"):
        coco(tmp_path, class_names=("cat", "horse"))


def test_coco_agrees_with_pycocotools_on_real_photographs() -> None:
    path = SHARED / "data/tiny_coco/annotations/instances_val2017.json"
    if not path.exists():
        pytest.skip("tiny_coco isn't here")
    dataset = CocoDataset(DatasetRequest("val", SHARED / "data/tiny_coco/val2017", path))
    oracle = COCO(str(path))
    categories = sorted(oracle.getCatIds())
    for index in range(len(dataset)):
        a = dataset.annotation(index)
        expected = oracle.loadAnns(oracle.getAnnIds(a.image_id))
        assert sorted(a.labels.tolist()) == sorted(categories.index(e["category_id"]) for e in expected)
        assert a.ignore.sum() == sum(e["iscrowd"] for e in expected)
        total = sum(e["bbox"][2] * e["bbox"][3] for e in expected)
        assert (a.boxes[:, 2:] - a.boxes[:, :2]).prod(1).sum() == pytest.approx(total, rel=1e-3)
        assert dataset.read_image(index).shape[:2] == (a.height, a.width)


def test_a_sink_gets_every_fault_and_images_of_known_size_stay(tmp_path: Path) -> None:
    document = coco_document()
    document["images"].append({"id": 4, "file_name": "gone.png", "height": 40, "width": 60})
    document["annotations"] += [
        {"image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4]},
        {"image_id": 5, "category_id": 2, "bbox": [1, 2, 3, 4]},
        {"image_id": 4, "category_id": 2, "bbox": [70, 2, 3, 4]},
        {"image_id": 4, "category_id": 2, "bbox": [1, 2, 0, 4]},
    ]
    faults: list[Fault] = []
    dataset = coco(tmp_path, document, on_fault=faults.append)
    assert {(f.kind, f.count) for f in faults} == {
        ("missing images", 1),
        ("annotations of no image", 1),
        ("boxes outside the image or without area", 2),
        ("boxes that stick out of their image", 1),  # of the document itself
    }
    assert "gone.png" in next(f.where for f in faults if f.kind == "missing images")
    assert [dataset.annotation(i).image_id for i in range(len(dataset))] == [3, 4, 9]
    assert dataset.annotation(1).boxes.tolist() == [[1, 2, 4, 6]]


def change(document: dict[str, Any], **annotation: Any) -> dict[str, Any]:
    document["annotations"][0] |= annotation
    return document


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"bbox": [70, 6, 10, 20]}, "1 boxes outside the image or without area"),
        ({"bbox": [5, 6, 0, 20]}, "1 boxes outside the image or without area"),
        ({"bbox": [5, 6, -3, 20]}, "1 boxes outside the image or without area"),
        ({"category_id": 99}, "1 annotations of no category .*category_id 99"),
        ({"image_id": 99}, "1 annotations of no image .*image_id 99"),
    ],
)
def test_unusable_annotations_are_named_counted_and_skipped_only_when_asked(
    tmp_path: Path, fault: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DataError, match=message):
        coco(tmp_path, change(coco_document(), **fault))
    dataset = coco(tmp_path, change(coco_document(), **fault), on_bad_data="skip")
    assert len(dataset.annotation(1).labels) == 2
    assert "left out 1" in caplog.text


def test_missing_and_damaged_images_are_named_and_skipped_only_when_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document = coco_document()
    document["images"].append({"id": 1, "file_name": "gone.png", "height": 4, "width": 4})
    with pytest.raises(DataError, match=r"1 missing images .*gone\.png"):
        coco(tmp_path, document)
    (tmp_path / "b.png").write_bytes(b"not an image")
    assert len(coco(tmp_path, document, on_bad_data="skip")) == 1
    assert "1 missing images" in caplog.text
    assert "1 unreadable images" in caplog.text


def test_an_image_of_another_size_than_its_annotation_says_is_an_error(tmp_path: Path) -> None:
    dataset = coco(tmp_path)
    save_image(tmp_path, "a.png", (10, 12))
    with pytest.raises(DataError, match=r"a\.png is 12 x 10, annotated as 60 x 40"):
        dataset.read_image(0)
    with pytest.raises(DataError, match=r"1 images of another size .*a\.png is 12 x 10, annotated as 60 x 40"):
        coco(tmp_path)


def test_malformed_json_names_file_and_line(tmp_path: Path) -> None:
    text = json.dumps(coco_document(), indent=1)
    lines = text.splitlines()
    lines[5] = lines[5].replace(":", " ")
    with pytest.raises(DataError, match=r"instances\.json:6: malformed JSON"):
        coco(tmp_path, "\n".join(lines))
    with pytest.raises(DataError, match=r"instances\.json:\d+: malformed JSON"):
        coco(tmp_path, text[:-20])


def test_json_of_another_kind_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a COCO instances file.*\$\.images"):
        coco(tmp_path, '{"images": 3, "categories": []}')


def test_an_image_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    document = coco_document()
    document["images"][0]["file_name"] = "../outside.png"
    with pytest.raises(DataError, match="leaves the images folder"):
        coco(tmp_path, document, on_bad_data="skip")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_json_makes_the_coco_reader_fail_with_anything_but_a_data_error(tmp_path: Path, data: st.DataObject) -> None:
    value = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )
    document = coco_document()
    target: Any = data.draw(st.sampled_from([document, document["images"][0], document["annotations"][0]]))
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(value)
    try:
        coco(tmp_path, document)
    except DataError:
        pass


VOC_OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult>"
    "<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"
)


def voc(tmp_path: Path, xml: str | None = None, split: str = "one\ntwo\n", **request: Any) -> VocDataset:
    images, annotations = tmp_path / "JPEGImages", tmp_path / "Annotations"
    annotations.mkdir(parents=True, exist_ok=True)
    for name in ("one", "two"):
        save_image(images, f"{name}.jpg")
        (annotations / f"{name}.xml").write_text("<annotation></annotation>")
    if xml is None:
        xml = "<annotation>\n" + VOC_OBJECT.format(1, 2, 10, 20, name="dog", difficult=0)
        xml += VOC_OBJECT.format(5, 5, 60, 40, name="cat", difficult=1) + "</annotation>"
    (annotations / "one.xml").write_text(xml)
    (tmp_path / "train.txt").write_text(split)
    return VocDataset(DatasetRequest("train", images, annotations, tmp_path / "train.txt", **request))


def test_voc_counts_pixels_from_one(tmp_path: Path) -> None:
    dataset = voc(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    a = dataset.annotation(0)
    assert a.boxes.tolist() == [[0, 1, 10, 20], [4, 4, 60, 40]]
    assert a.labels.tolist() == [1, 0]
    assert a.ignore.tolist() == [False, True]
    assert len(dataset.annotation(1).labels) == 0
    assert voc(tmp_path, split="two  1\n").annotation(0).path == tmp_path / "JPEGImages" / "two.jpg"


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation>\n<object>\n</annotation>", r"one\.xml:3: malformed XML"),
        ("<annotation><object><name>x</name></object></annotation>", "object 1 has no complete bndbox"),
        (
            "<annotation><object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>3</ymax></bndbox></object></annotation>",
            "object 1 has no name",
        ),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "declares a DTD or entities"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
            "declares a DTD or entities",
        ),
        (
            "<annotation>" + VOC_OBJECT.format(70, 1, 80, 2, name="dog", difficult=0) + "</annotation>",
            "1 boxes outside",
        ),
        (
            "<annotation>" + VOC_OBJECT.format("nan", 1, 80, 2, name="dog", difficult=0) + "</annotation>",
            "1 boxes outside",
        ),
    ],
)
def test_bad_voc_files_are_named(tmp_path: Path, xml: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        voc(tmp_path, xml)


def test_bad_voc_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        voc(tmp_path, split="\n")
    with pytest.raises(DataError, match="names one twice"):
        voc(tmp_path, split="one\none\n")
    with pytest.raises(DataError, match=r"no annotation at .*three\.xml"):
        voc(tmp_path, split="three\n")
    (tmp_path / "Annotations" / "three.xml").write_text("<annotation></annotation>")
    with pytest.raises(DataError, match=r"1 missing images .*three\.jpg"):
        voc(tmp_path, split="one\nthree\n")
    with pytest.raises(DataError, match="'horse'"):
        voc(tmp_path, class_names=("horse",))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60), st.integers(0, 300))
def test_no_xml_makes_the_voc_reader_fail_with_anything_but_a_data_error(tmp_path: Path, text: str, at: int) -> None:
    whole = "<annotation>" + VOC_OBJECT.format(1, 2, 10, 20, name="dog", difficult=0) + "</annotation>"
    try:
        voc(tmp_path, whole[:at] + text + whole[at:])
    except (DataError, UnicodeEncodeError):  # lone surrogates can't be written to the test's file
        pass


def test_bccd_is_read_whole() -> None:
    root = SHARED / "data/bccd/VOCdevkit/VOC2007"
    if not root.exists():
        pytest.skip("bccd isn't here")
    counts = {}
    for split in ("train", "val", "test"):
        request = DatasetRequest(
            split, root / "JPEGImages", root / "Annotations", root / f"ImageSets/Main/{split}.txt", on_bad_data="skip"
        )
        dataset = VocDataset(request)
        assert dataset.class_names == ("Platelets", "RBC", "WBC")
        counts[split] = len(dataset)
    assert counts == {"train": 205, "val": 87, "test": 72}


def test_a_folder_is_all_its_images_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c.txt.png"):
        save_image(tmp_path, name)
    (tmp_path / "notes.txt").write_text("no image")
    dataset = ImageFolder(DatasetRequest("prediction", tmp_path))
    assert [dataset.annotation(i).path.name for i in range(len(dataset))] == ["a.JPG", "b.png", "c.txt.png"]  # type: ignore[union-attr]
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 unreadable images .*b\.png"):
        ImageFolder(DatasetRequest("prediction", tmp_path))
    with pytest.raises(DataError, match="no folder at"):
        ImageFolder(DatasetRequest("prediction", tmp_path / "none"))


def test_the_synthetic_set_is_the_same_everywhere_and_its_splits_differ() -> None:
    one, other = SyntheticDataset(DatasetRequest("train")), SyntheticDataset(DatasetRequest("train"))
    assert len(one) == 320
    assert len(SyntheticDataset(DatasetRequest("val"))) == 80
    for index in (0, 7):
        assert np.array_equal(one.read_image(index), other.read_image(index))
    assert not np.array_equal(one.read_image(0), SyntheticDataset(DatasetRequest("val")).read_image(0))
    boxes = [len(one.annotation(i).labels) for i in range(60)]
    assert 0 in boxes
    assert max(boxes) > 3


def test_synthetic_boxes_are_the_painted_extent() -> None:
    options = SyntheticOptions(max_objects=1, image_size=128)
    dataset = SyntheticDataset(DatasetRequest("train", options=options))
    checked = 0
    for index in range(40):
        a = dataset.annotation(index)
        if not len(a.labels):
            continue
        # The object is the part that differs from what the same generator paints without it: a sharp edge all around.
        x1, y1, x2, y2 = (int(v) for v in a.boxes[0])
        image = dataset.read_image(index).astype(int)
        inner = np.abs(image[y1:y2, x1:x2] - image[max(y1 - 1, 0), max(x1 - 1, 0)]).max(2)
        for edge in (inner[:, 0], inner[:, -1], inner[0], inner[-1]):
            assert (edge > 24).any()
        checked += 1
    assert checked > 30


def test_a_synthetic_class_must_be_a_shape() -> None:
    with pytest.raises(DataError, match="'horse'"):
        SyntheticDataset(DatasetRequest("train", class_names=("disc", "horse")))
    assert SyntheticDataset(DatasetRequest("train")).class_names == SHAPES


def test_any_data_set_can_be_written_as_coco_and_read_back(tmp_path: Path) -> None:
    dataset = SyntheticDataset(DatasetRequest("val", options=SyntheticOptions(num_images=20, image_size=96)))
    path = write_coco(dataset, tmp_path, "val")
    again = CocoDataset(DatasetRequest("val", tmp_path / "val", path))
    assert again.class_names == dataset.class_names
    for index in range(len(dataset)):
        one, other = dataset.annotation(index), again.annotation(index)
        assert np.array_equal(one.boxes, other.boxes)
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(dataset.read_image(index), again.read_image(index))


def test_readers_and_recipes_can_be_sent_to_spawned_workers(tmp_path: Path) -> None:
    dataset = coco(tmp_path)
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own bytes
    assert again.annotation(1).boxes.tolist() == dataset.annotation(1).boxes.tolist()
    assert np.array_equal(again.read_image(1), dataset.read_image(1))
    for thing in (SyntheticDataset(DatasetRequest("train")), voc(tmp_path), YoloxRecipe(), SsdRecipe()):
        pickle.loads(pickle.dumps(thing))  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 5000, "", ".", "loop", "loop/x.png", "folder.png", "/etc/passwd", "../a.png"]
)
@pytest.mark.parametrize("on_bad_data", ["error", "skip"])
def test_odd_image_names_are_data_errors_or_skipped(tmp_path: Path, name: str, on_bad_data: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder.png").mkdir()
    document = coco_document()
    document["images"][0]["file_name"] = name
    try:
        assert len(coco(tmp_path, document, on_bad_data=on_bad_data)) == 1
        assert on_bad_data == "skip"
    except DataError as error:
        assert on_bad_data == "error" or "leaves the images folder" in error.message or "not a COCO" in error.message


def test_an_image_that_is_a_link_to_elsewhere_is_read(tmp_path: Path) -> None:
    save_image(tmp_path / "store", "real.png")
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).symlink_to(tmp_path / "store" / "real.png")
    assert len(coco(tmp_path / "images")) == 2


@pytest.mark.parametrize("value", [2**63, -(2**70), 10**400, 1.5, None, [], True, ""])
def test_an_id_that_is_none_costs_its_image_alone(tmp_path: Path, value: object) -> None:
    document = coco_document()
    document["images"][0]["id"] = value
    with pytest.raises(DataError, match=r"1 unusable entries \(first: images\[0\] .*id "):
        coco(tmp_path, document)
    assert coco(tmp_path, document, on_bad_data="skip").annotation(0).image_id == 3


@pytest.mark.parametrize("value", [2**63, -(2**70), 10**400, 0, -1, 1.5, None, "", "wide", True, []])
@pytest.mark.parametrize("key", ["height", "width"])
def test_a_size_that_is_none_is_taken_from_the_image(tmp_path: Path, key: str, value: object) -> None:
    document = coco_document()
    document["images"][0][key] = value
    a = coco(tmp_path, document).annotation(1)
    assert (a.height, a.width) == (40, 60)
    assert a.boxes.tolist() == [[5, 6, 15, 26], [50, 30, 60, 40], [0, 0, 60, 40]]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({"area": 1e308}, "1 areas that are none"),
        ({"area": -5}, "1 areas that are none"),
        ({"bbox": [1e308, 0, 1e308, 5]}, "1 boxes outside"),
        ({"bbox": [5, 6, 1e-12, 3]}, "1 boxes outside"),
    ],
)
def test_numbers_that_no_picture_has_are_named(tmp_path: Path, fault: dict[str, Any], kind: str) -> None:
    with pytest.raises(DataError, match=rf"{kind}.*annotations\[0\]"):
        coco(tmp_path, change(coco_document(), **fault))
    a = coco(tmp_path, change(coco_document(), **fault), on_bad_data="skip").annotation(1)
    assert np.isfinite(a.areas).all()
    assert len(a.labels) == 2


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    document = coco_document()
    document["images"][1]["id"] = 9
    with pytest.raises(DataError, match="two images have the id 9"):
        coco(tmp_path, document)
    document = coco_document()
    document["categories"][1]["id"] = 7
    with pytest.raises(DataError, match="two categories have the id 7"):
        coco(tmp_path, document)


def test_objects_of_classes_that_are_not_named_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        coco(tmp_path, class_names=("dog",))
        voc(tmp_path, class_names=("dog",))
    assert "train set: 2 objects of other classes" in caplog.text
    assert "train set: 1 objects of other classes" in caplog.text


def test_a_damaged_voc_file_is_left_out_only_when_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = voc(tmp_path, "<annotation>", on_bad_data="skip")
    assert len(dataset) == 1
    assert "1 unusable annotation files" in caplog.text


def test_voc_names_with_spaces_and_marks_are_read_and_names_that_leave_the_folder_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "JPEGImages", "my photo.jpg")
    voc(tmp_path)
    (tmp_path / "Annotations" / "my photo.xml").write_text("<annotation></annotation>")
    dataset = voc(tmp_path, split="my photo -1\none  1\n")
    assert [dataset.annotation(i).path.name for i in range(2)] == ["my photo.jpg", "one.jpg"]  # type: ignore[union-attr]
    with pytest.raises(DataError, match=r"'\.\./Annotations/one', which leaves"):
        voc(tmp_path, split="../Annotations/one\n")


def test_an_image_whose_size_contradicts_its_annotation_is_left_out_when_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_image(tmp_path, "a.png", (10, 12))
    assert len(coco(tmp_path, on_bad_data="skip")) == 1
    assert "a.png is 12 x 10" in caplog.text
