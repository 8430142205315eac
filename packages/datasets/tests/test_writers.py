"""What the writers write, the readers read back, to the last bit of every box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, DatasetWriter, DetectionDataset, WriteRequest
from stdet.structures import Annotation
from stdet_datasets.coco import CocoDataset
from stdet_datasets.voc import VocDataset
from stdet_datasets.writers import CocoWriter, VocWriter, YoloWriter, decimals
from stdet_datasets.yolo import YoloDataset

CLASSES = ("b cell", "a&b <c>", "Ω")
HEIGHT, WIDTH = 90, 120
FORMATS: dict[str, tuple[type[DatasetWriter], type[DetectionDataset]]] = {
    "coco": (CocoWriter, CocoDataset),
    "voc": (VocWriter, VocDataset),
    "yolo": (YoloWriter, YoloDataset),
}


def annotation(image_id: int, boxes: list[Any], labels: list[int], ignore: list[bool] | None = None) -> Annotation:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    sides = array[:, 2:] - array[:, :2]
    flags = np.array(ignore or [False] * len(labels), bool)
    return Annotation(
        image_id, None, HEIGHT, WIDTH, array, np.array(labels, np.int64), flags, sides[:, 0] * sides[:, 1]
    )


def through(kind: str, folder: Path, annotations: list[Annotation]) -> tuple[DetectionDataset, dict[str, int]]:
    """Write, and read back."""
    write, read = FORMATS[kind]
    folder.mkdir(exist_ok=True)
    writer = write(WriteRequest(folder, "train", CLASSES))
    writer.images_folder.mkdir(parents=True, exist_ok=True)
    for a in annotations:
        Image.new("L", (WIDTH, HEIGHT)).save(writer.images_folder / f"{a.image_id}.png")
        writer.add(f"{a.image_id}.png", a)
    done = writer.finish()
    request = DatasetRequest("train", writer.images_folder, done.annotations_path, done.split_path, CLASSES)
    return read(request), done.lost


@st.composite
def boxes(draw: st.DrawFn) -> list[float]:
    """Sub-pixel boxes inside the image, as decimal numbers or any float32."""
    digits = draw(st.sampled_from([0, 1, 2, 3, None]))

    def number(high: int) -> float:
        value = draw(st.floats(0, high, width=32))
        return value if digits is None else round(value, digits)

    (x1, x2), (y1, y2) = sorted([number(WIDTH), number(WIDTH)]), sorted([number(HEIGHT), number(HEIGHT)])
    return [x1, y1, x2, y2]


def has_area(box: list[float]) -> bool:
    x1, y1, x2, y2 = np.array(box, np.float32)
    return bool(x2 - x1 > 1e-3 and y2 - y1 > 1e-3)


objects = st.lists(st.tuples(boxes().filter(has_area), st.integers(0, 2), st.booleans()), max_size=5)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=objects)
def test_boxes_classes_and_flags_come_back(
    kind: str, rows: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # VOC counts from 1, so what is smaller than a float64's step at 1 can't be told there
    written = annotation(0, [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
    full = annotation(1, [[0, 0, WIDTH, HEIGHT]] * 3, [0, 1, 2])
    dataset, _ = through(kind, tmp_path_factory.mktemp(kind), [written, full])
    read = dataset.annotation(0)
    assert dataset.class_names == CLASSES
    if kind == "yolo":  # which can't say `ignore`
        keep = ~written.ignore
        written = annotation(0, written.boxes[keep].tolist(), written.labels[keep].tolist())
    np.testing.assert_allclose(read.boxes, written.boxes, rtol=0, atol={"coco": 0, "voc": 1e-12, "yolo": 1e-9}[kind])
    assert read.labels.tolist() == written.labels.tolist()
    assert read.ignore.tolist() == written.ignore.tolist()
    assert np.allclose(read.areas, written.areas)
    assert (read.height, read.width) == (HEIGHT, WIDTH)


def test_a_number_with_few_digits_is_written_as_it_was() -> None:
    assert decimals(np.array([473.07, 0.1, 12, 1 / 3], np.float32)).tolist() == [
        473.07,
        0.1,
        12.0,
        float(np.float32(1 / 3)),
    ]


def test_coco_keeps_image_ids_and_mask_areas(tmp_path: Path) -> None:
    a = annotation(77, [[1.5, 2.25, 31.13, 40]], [2])
    a = Annotation(77, None, HEIGHT, WIDTH, a.boxes, a.labels, a.ignore, np.array([123.45], np.float32))
    dataset, lost = through("coco", tmp_path, [a, annotation(3, [], [])])
    assert [dataset.annotation(i).image_id for i in (0, 1)] == [3, 77]
    assert dataset.annotation(1).areas.tolist() == a.areas.tolist()
    assert not lost
    document = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    assert [c["id"] for c in document["categories"]] == [0, 1, 2]
    assert document["annotations"][0]["bbox"] == [1.5, 2.25, 29.63, 37.75]
    assert document["annotations"][0]["area"] == 123.45


def test_voc_counts_pixels_from_one_and_says_what_it_loses(tmp_path: Path) -> None:
    a = annotation(0, [[0, 0, 10, 20], [0.5, 1, 2, 3]], [0, 1], [False, True])
    a = Annotation(0, None, HEIGHT, WIDTH, a.boxes, a.labels, a.ignore, np.array([150, 3], np.float32))
    _, lost = through("voc", tmp_path, [a])
    text = (tmp_path / "train/Annotations/0.xml").read_text()
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax>" in text
    assert "<xmin>1.5</xmin>" in text
    assert text.count("<difficult>1</difficult>") == 1
    assert list(lost.values()) == [1]


def test_images_that_voc_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    writer = VocWriter(WriteRequest(tmp_path, "train", CLASSES))
    writer.add("a.png", annotation(0, [], []))
    with pytest.raises(DataError, match="would share"):
        writer.add("a.jpg", annotation(1, [], []))
    with pytest.raises(DataError, match="lies deeper"):
        writer.add("deep/b.jpg", annotation(2, [], []))


@pytest.mark.parametrize("name", ["", " a", "a\x01"])
def test_a_class_name_that_voc_would_change_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="can't stand in these files"):
        VocWriter(WriteRequest(tmp_path, "train", (name,)))


def test_yolo_writes_ultralytics_layout_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    for split in ("train", "val"):
        writer = YoloWriter(WriteRequest(tmp_path, split, CLASSES))
        writer.add("a.png", annotation(0, [[12, 9, 36, 45], [0, 0, 5, 5]], [2, 1], [False, True]))
        done = writer.finish()
    assert (tmp_path / "labels/val/a.txt").read_text() == "2 0.2 0.3 0.2 0.4\n"
    assert writer.images_folder == tmp_path / "images/val"
    document = yaml.safe_load((tmp_path / "data.yaml").read_text())
    assert document == {"train": "images/train", "val": "images/val", "names": dict(enumerate(CLASSES))}
    assert done.lost == {"crowd regions or difficult objects (YOLO can't mark them)": 1}
