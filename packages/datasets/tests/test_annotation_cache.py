"""The annotation cache: what comes from it is what the files say, whatever happens to it or to them."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset
from stdet_datasets import annotation_cache, coco, images, voc
from stdet_datasets.annotation_cache import Entry, cached
from stdet_datasets.coco import CocoDataset
from stdet_datasets.voc import VocDataset


@pytest.fixture(autouse=True)
def _files_count_as_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_cache, "RECENT_NS", 0)


def tick() -> None:
    """File systems stamp a change with the time of the last tick of the kernel's clock, 10 ms apart at most."""
    time.sleep(0.03)


def make_coco(folder: Path, box: tuple[float, ...] = (5, 6, 10, 20)) -> DatasetRequest:
    (folder / "images").mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        if not (folder / "images" / name).exists():
            Image.new("RGB", (60, 40)).save(folder / "images" / name)
    document = {
        "images": [{"id": n + 1, "file_name": f"{c}.png", "height": 40, "width": 60} for n, c in enumerate("ab")],
        "categories": [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [
            {"image_id": 2, "category_id": 7, "bbox": box},
            {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "iscrowd": 1},
        ],
    }
    (folder / "instances.json").write_text(json.dumps(document))
    tick()
    return DatasetRequest("train", folder / "images", folder / "instances.json")


def make_voc(folder: Path, right: int = 30) -> DatasetRequest:
    for name in ("JPEGImages", "Annotations"):
        (folder / name).mkdir(exist_ok=True)
    if not (folder / "JPEGImages/a.png").exists():
        Image.new("RGB", (60, 40)).save(folder / "JPEGImages/a.png")
    box = f"<xmin>1</xmin><ymin>2</ymin><xmax>{right}</xmax><ymax>20</ymax>"
    xml = f"<annotation><object><name>dog</name><bndbox>{box}</bndbox></object></annotation>"
    (folder / "Annotations/a.xml").write_text(xml)
    tick()
    return DatasetRequest("train", folder / "JPEGImages", folder / "Annotations")


def content(dataset: DetectionDataset) -> list[Any]:
    every = [dataset.annotation(i) for i in range(len(dataset))]
    rows = [
        (a.image_id, a.path, a.height, a.width, *(v.tolist() for v in (a.boxes, a.labels, a.ignore))) for a in every
    ]
    return [dataset.class_names, *rows, *(a.areas.tolist() for a in every)]


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("it is read again")


def test_the_second_open_reads_no_annotation_file_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_coco(tmp_path)
    first = content(CocoDataset(request))
    monkeypatch.setattr(coco, "read_instances", refuse)
    monkeypatch.setattr(annotation_cache, "sha256_file", refuse)
    again = CocoDataset(request)
    assert content(again) == first
    assert not again.annotation(0).boxes.flags.writeable
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "instances.json"]


def test_the_second_open_of_voc_reads_neither_xml_nor_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = make_voc(tmp_path)
    first = content(VocDataset(request))
    monkeypatch.setattr(voc, "_read", refuse)
    monkeypatch.setattr(images, "image_size", refuse)
    assert content(VocDataset(request)) == first


def test_a_copy_of_the_content_under_new_times_is_hashed_but_not_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = make_coco(tmp_path)
    first = content(CocoDataset(request))
    make_coco(tmp_path)
    monkeypatch.setattr(coco, "read_instances", refuse)
    assert content(CocoDataset(request)) == first


def test_an_edit_of_equal_size_under_the_old_time_is_seen(tmp_path: Path) -> None:
    request = make_coco(tmp_path)
    path = tmp_path / "instances.json"
    before = path.stat()
    assert CocoDataset(request).annotation(1).boxes.tolist() == [[5, 6, 15, 26]]
    make_coco(tmp_path, (5, 7, 10, 20))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert CocoDataset(request).annotation(1).boxes.tolist() == [[5, 7, 15, 27]]


def test_a_file_that_just_changed_is_not_trusted_by_its_time_stamps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_cache, "RECENT_NS", 60_000_000_000)
    request = make_coco(tmp_path)
    CocoDataset(request)
    monkeypatch.setattr(annotation_cache, "sha256_file", refuse)
    with pytest.raises(AssertionError, match="read again"):
        CocoDataset(request)


def test_voc_sees_changed_annotations_images_and_classes(tmp_path: Path) -> None:
    request = make_voc(tmp_path)
    assert VocDataset(request).annotation(0).boxes.tolist() == [[0, 1, 30, 20]]
    make_voc(tmp_path, right=31)
    assert VocDataset(request).annotation(0).boxes.tolist() == [[0, 1, 31, 20]]
    Image.new("RGB", (25, 40)).save(tmp_path / "JPEGImages/a.png")
    tick()
    a = VocDataset(request).annotation(0)
    assert (a.width, a.boxes.tolist()) == (25, [[0, 1, 25, 20]])
    with pytest.raises(DataError, match="'horse'"):
        VocDataset(DatasetRequest("train", request.images_path, request.annotations_path, class_names=("horse",)))


def test_other_classes_are_another_entry(tmp_path: Path) -> None:
    request = make_coco(tmp_path)
    assert CocoDataset(request).class_names == ("cat", "dog")
    only = DatasetRequest("train", request.images_path, request.annotations_path, class_names=("dog",))
    assert CocoDataset(only).class_names == ("dog",)
    assert [len(CocoDataset(only).annotation(i).labels) for i in range(2)] == [0, 1]


def test_faults_and_the_number_of_other_objects_are_told_on_every_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request = make_coco(tmp_path, (70, 6, 10, 20))
    for _ in range(2):
        with pytest.raises(DataError, match="1 boxes outside the image"):
            CocoDataset(request)
    only = DatasetRequest(
        "train", request.images_path, request.annotations_path, class_names=("dog",), on_bad_data="skip"
    )
    with caplog.at_level("INFO"):
        for _ in range(2):
            assert len(CocoDataset(only)) == 2
    assert caplog.text.count("left out 1 boxes outside") == 2
    assert caplog.text.count("1 objects of other classes") == 2


@pytest.mark.parametrize("size", [0, 5, 100, 2**20])
def test_a_cut_cache_is_made_again(
    tmp_path: Path, own_cache: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    request = make_coco(tmp_path)
    first = content(CocoDataset(request))
    for file in own_cache.rglob("*.bin"):
        file.write_bytes(file.read_bytes()[:size] + b"\0" * (size == 2**20))
    assert content(CocoDataset(request)) == first
    assert "is damaged" in caplog.text
    caplog.clear()
    assert content(CocoDataset(request)) == first
    assert "damaged" not in caplog.text


def test_a_flipped_bit_anywhere_is_found(own_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    def entry() -> Entry:
        return Entry({"x": np.arange(5), "none": np.zeros((0, 4), np.float32)}, {"text": "é\udcff"})

    whole = cached(["key"], entry)
    assert whole.arrays["x"].tolist() == [0, 1, 2, 3, 4]
    assert whole.arrays["none"].shape == (0, 4)
    assert whole.facts == entry().facts
    (path,) = own_cache.rglob("*.bin")
    data = path.read_bytes()
    for at in range(0, len(data), 5):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        assert cached(["key"], entry).arrays["x"].tolist() == [0, 1, 2, 3, 4]
    assert caplog.text.count("is damaged") == len(range(0, len(data), 5))


def test_an_entry_under_another_name_is_not_taken_for_it(own_cache: Path) -> None:
    cached(["a"], lambda: Entry({}, {"value": 1}))
    (path,) = own_cache.rglob("*.bin")
    content = path.read_bytes()
    cached(["b"], lambda: Entry({}, {"value": 2}))
    for file in own_cache.rglob("*.bin"):
        file.write_bytes(content)
    assert cached(["b"], lambda: Entry({}, {"value": 2})).facts == {"value": 2}


def test_a_cache_folder_that_cannot_be_written_is_told_and_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = make_coco(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setenv("STDET_CACHE", str(tmp_path / "file"))
    assert len(CocoDataset(request)) == 2
    assert "annotations are not cached" in caplog.text


def test_spawned_workers_get_the_name_of_the_cache_not_its_content(tmp_path: Path, own_cache: Path) -> None:
    dataset = CocoDataset(make_coco(tmp_path))
    data = pickle.dumps(dataset)
    assert len(data) < 1000
    assert content(pickle.loads(data)) == content(dataset)  # noqa: S301 - our own bytes
    for file in own_cache.rglob("*.bin"):
        file.unlink()
    assert len(dataset.annotation(1).boxes) == 1, "who has it open keeps it"
    with pytest.raises(DataError, match="went away"):
        pickle.loads(data)  # noqa: S301 - our own bytes


def test_skipped_images_are_looked_at_once_and_again_when_one_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_coco(tmp_path)
    request = DatasetRequest("train", made.images_path, made.annotations_path, on_bad_data="skip")
    looked: list[Path] = []
    real = images.verify_image
    monkeypatch.setattr(images, "verify_image", lambda path: (looked.append(path), real(path))[1])
    assert [len(CocoDataset(request)) for _ in range(3)] == [2, 2, 2]
    assert len(looked) == 2
    (tmp_path / "images/a.png").write_bytes(b"no image")
    tick()
    assert [len(CocoDataset(request)) for _ in range(2)] == [1, 1]
    assert CocoDataset(request).annotation(0).boxes.tolist() == [[5, 6, 15, 26]]
    (tmp_path / "images/b.png").unlink()
    assert len(CocoDataset(request)) == 0
    assert len(looked) == 4 + 1


def test_a_missing_image_is_noticed_though_annotations_are_cached(tmp_path: Path) -> None:
    request = make_coco(tmp_path)
    CocoDataset(request)
    (tmp_path / "images/a.png").unlink()
    with pytest.raises(DataError, match=r"1 missing images .*a\.png"):
        CocoDataset(request)


def test_what_was_not_used_for_longest_goes_first(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_cache, "MAX_ENTRIES", 3)
    made: list[int] = []

    def get(number: int) -> None:
        cached([number], lambda: (made.append(number), Entry({}, {}))[1])
        tick()

    for number in (1, 2, 3, 1, 4):  # 2 goes: 1 was used again
        get(number)
    assert len(list(own_cache.rglob("*.bin"))) == 3
    for number in (1, 3, 4, 2):
        get(number)
    assert made == [1, 2, 3, 4, 2]


def test_an_entry_whose_time_of_use_cannot_be_set_is_whole(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(30, "Read-only file system")

    cached(["key"], lambda: Entry({}, {"value": 1}))
    monkeypatch.setattr(os, "utime", refused)
    assert cached(["key"], refuse).facts == {"value": 1}
    assert not caplog.text
