"""What pycocotools reads is read, with the same meaning; one entry that can't be used costs nothing but itself."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO

from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, Fault
from stdet_datasets.coco import CocoDataset

Document = dict[str, Any]


def plain() -> Document:
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 60, "height": 40} for n in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [5, 6, 10, 20], "area": 150, "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 1, "bbox": [1, 2, 30, 4], "area": 120, "iscrowd": 1},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [3, 3, 7, 4], "area": 28, "iscrowd": 0},
        ],
    }


def read(folder: Path, document: Document | str | bytes, **request: Any) -> CocoDataset:
    for name in ("1.png", "2.png"):
        Image.new("RGB", (60, 40)).save(folder / name)
    text = json.dumps(document) if isinstance(document, dict) else document
    (folder / "a.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return CocoDataset(DatasetRequest(request.pop("split", "train"), folder, folder / "a.json", **request))


def content(dataset: CocoDataset) -> list[Any]:
    every = [dataset.annotation(i) for i in range(len(dataset))]
    return [dataset.class_names] + [
        (a.image_id, a.height, a.width, *(v.tolist() for v in (a.boxes, a.labels, a.ignore, a.areas))) for a in every
    ]


def each(document: Document, part: str, **values: Callable[[Any], Any]) -> Document:
    for entry in document[part]:
        for key, change in values.items():
            entry[key] = change(entry.get(key))
    return document


def without(document: Document, part: str, *keys: str) -> Document:
    for entry in document[part]:
        for key in keys:
            entry.pop(key)
    return document


def everywhere(document: Document, change: Callable[[Any], Any]) -> Document:
    each(document, "images", id=change)
    each(document, "categories", id=change)
    return each(document, "annotations", image_id=change, category_id=change)


SPELLINGS: dict[str, Callable[[Document], Document]] = {
    "crowd as a bool": lambda d: each(d, "annotations", iscrowd=bool),
    "crowd as text": lambda d: each(d, "annotations", iscrowd=str),
    "crowd as a fraction": lambda d: each(d, "annotations", iscrowd=float),
    "ids as fractions": lambda d: everywhere(d, float),
    "ids as text": lambda d: everywhere(d, str),
    "some ids as fractions": lambda d: each(d, "annotations", image_id=float),
    "sizes as text": lambda d: each(d, "images", width=str, height=str),
    "sizes as fractions": lambda d: each(d, "images", width=float, height=float),
    "sizes null": lambda d: each(d, "images", width=lambda _: None, height=lambda _: None),
    "sizes missing": lambda d: without(d, "images", "width", "height"),
    "boxes of text": lambda d: each(d, "annotations", bbox=lambda box: [str(v) for v in box]),
    "boxes as text": lambda d: each(d, "annotations", bbox=str),
    "areas as text": lambda d: each(d, "annotations", area=str),
    "areas null": lambda d: each(d, "annotations", area=lambda area: None if area != 150 else area),
    "unknown keys": lambda d: d | {"info": None, "licenses": "none", "extra": [1, {"a": 2}]},
    "other keys odd": lambda d: each(d, "annotations", segmentation=lambda _: {"counts": "x"}, id=lambda _: "x"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelling_that_pycocotools_reads_means_the_same(tmp_path: Path, spelling: str) -> None:
    expected = content(read(tmp_path, plain()))
    document = SPELLINGS[spelling](plain())
    assert content(read(tmp_path, document)) == expected
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(COCO(str(tmp_path / "a.json")).getAnnIds()) >= 1


def test_a_missing_or_null_crowd_flag_is_none(tmp_path: Path) -> None:
    for document in (
        without(plain(), "annotations", "iscrowd"),
        each(plain(), "annotations", iscrowd=lambda _: None),
    ):
        assert not any(read(tmp_path, document).annotation(i).ignore.any() for i in range(2))


def test_names_that_are_numbers_are_text(tmp_path: Path) -> None:
    document = each(plain(), "categories", name=lambda name: 7 if name == "cat" else 8.5)
    assert read(tmp_path, document).class_names == ("7", "8.5")


def test_ids_may_be_any_text_and_are_counted_in_their_order(tmp_path: Path) -> None:
    document = each(plain(), "images", id=lambda n: f"picture {3 - n}")
    document = each(document, "annotations", image_id=lambda n: f"picture {3 - n}")
    dataset = read(tmp_path, document)
    assert [(a.image_id, a.path) for a in map(dataset.annotation, range(2))] == [
        (0, tmp_path / "2.png"),
        (1, tmp_path / "1.png"),
    ]
    assert dataset.annotation(1).boxes.tolist() == [[5, 6, 15, 26]]
    document["annotations"][0]["image_id"] = "picture 9"
    with pytest.raises(DataError, match=r"1 annotations of no image .*annotations\[0\] .*picture 9"):
        read(tmp_path, document)
    document["images"][1]["id"] = document["images"][0]["id"]
    with pytest.raises(DataError, match="two images have the id picture 2"):
        read(tmp_path, document)


BAD_ANNOTATIONS: dict[str, Any] = {
    "no annotation": None,
    "a list": [1, 2],
    "bbox null": {"image_id": 1, "category_id": 1, "bbox": None},
    "bbox missing": {"image_id": 1, "category_id": 1},
    "bbox of three": {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]},
    "bbox with a word": {"image_id": 1, "category_id": 1, "bbox": [1, 2, "wide", 4]},
    "no image": {"category_id": 1, "bbox": [1, 2, 3, 4]},
    "category null": {"image_id": 1, "category_id": None, "bbox": [1, 2, 3, 4]},
    "crowd unknown": {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": "maybe"},
}


@pytest.mark.parametrize("kind", BAD_ANNOTATIONS)
def test_a_bad_annotation_is_counted_named_and_skippable(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    document = plain()
    document["annotations"].insert(1, BAD_ANNOTATIONS[kind])
    with pytest.raises(DataError, match=r"1 unusable entries \(first: annotations\[1\] of .*a\.json: "):
        read(tmp_path, document)
    assert content(read(tmp_path, document, on_bad_data="skip")) == content(read(tmp_path, plain()))
    assert "left out 1 unusable entries" in caplog.text
    told: list[Fault] = []
    read(tmp_path, document, on_fault=told.append)
    assert [(fault.kind, fault.count) for fault in told] == [("unusable entries", 1)]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_nan_condemns_its_annotation_alone_and_is_named(tmp_path: Path, number: str) -> None:
    document = plain()
    document["images"][0]["note"] = 'NaN "NaN" \\'
    text = json.dumps(document).replace('"bbox": [5,', f'"bbox": [{number},')
    name = float(number)
    with pytest.raises(DataError, match=rf"1 boxes outside the image .*annotations\[0\] of .*bbox \[{name}, 6"):
        read(tmp_path, text)
    assert content(read(tmp_path, text, on_bad_data="skip"))[2] == content(read(tmp_path, plain()))[2]
    with pytest.raises(DataError, match=r"1 areas that are none .*area nan"):
        read(tmp_path, json.dumps(plain()).replace('"area": 150', '"area": NaN'))


def test_bad_images_and_categories_are_counted_too(tmp_path: Path) -> None:
    document = plain()
    document["images"].append({"id": 3})
    document["categories"].append({"id": 3, "name": None})
    with pytest.raises(DataError, match=r"2 unusable entries .*images\[2\] of .*file_name None"):
        read(tmp_path, document)
    assert len(read(tmp_path, document, on_bad_data="skip")) == 2


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.json", data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("pack", "name"), [(gzip.compress, "gzip"), (zipped, "zip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")]
)
def test_a_compressed_file_is_called_so(tmp_path: Path, pack: Callable[[bytes], bytes], name: str) -> None:
    with pytest.raises(DataError, match=rf"a\.json is compressed \({name}\)"):
        read(tmp_path, pack(json.dumps(plain()).encode()))


def test_two_categories_of_one_name_are_one_class_which_is_said(tmp_path: Path) -> None:
    document = plain()
    document["categories"].append({"id": 9, "name": "cat"})
    document["annotations"][0]["category_id"] = 9
    for names in (None, ("cat", "dog")):
        dataset = read(tmp_path, document, class_names=names)
        assert dataset.class_names == ("cat", "dog")
        assert [dataset.annotation(i).labels.tolist() for i in range(2)] == [[0], [0, 0]]
        assert any("1 classes of one name ('cat' in " in note for note in dataset.notes)


def test_an_image_under_several_ids_is_said(tmp_path: Path) -> None:
    document = plain()
    document["images"].append({"id": 3, "file_name": "2.png", "width": 60, "height": 40})
    (note,) = read(tmp_path, document).notes
    assert "1 images listed under several ids (2.png is 2 images with a part of the objects each: 2, 3)" in note
    assert not read(tmp_path, plain()).notes


def test_a_windows_path_is_named_as_the_cause(tmp_path: Path) -> None:
    document = each(plain(), "images", file_name=lambda name: f"train\\{name}")
    with pytest.raises(DataError, match=r"2 missing images .*train\\1\.png: a Windows path; write /"):
        read(tmp_path, document)


def test_exif_is_named_as_the_cause_of_another_size_before_anything_is_read(tmp_path: Path) -> None:
    read(tmp_path, plain())
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "1.png", exif=exif)
    request = DatasetRequest("train", tmp_path, tmp_path / "a.json")
    with pytest.raises(
        DataError, match=r"1 images of another size .*is 40 x 60, annotated as 60 x 40: its EXIF orientation \(6\)"
    ):
        CocoDataset(request)
    exif[0x0112] = 9
    Image.new("RGB", (60, 40)).save(tmp_path / "1.png", exif=exif)
    assert CocoDataset(request).read_image(0).shape == (40, 60, 3)


def test_a_pipe_or_a_device_is_refused_at_once(tmp_path: Path) -> None:
    read(tmp_path, plain())
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(DataError, match="is a pipe or a device, not a file"):
            CocoDataset(DatasetRequest("train", tmp_path, path))
    with pytest.raises(DataError, match="is a folder, not a file"):
        CocoDataset(DatasetRequest("train", tmp_path, tmp_path))


def test_twenty_thousand_categories_take_no_time(tmp_path: Path) -> None:
    document = plain()
    names = [f"class {n}" for n in range(20_000)]
    document["categories"] = [{"id": n + 1, "name": name} for n, name in enumerate(names)]
    start = time.process_time()
    assert len(read(tmp_path, document).class_names) == 20_000
    assert read(tmp_path, document, class_names=tuple(reversed(names))).annotation(0).labels.tolist() == [19_998]
    assert time.process_time() - start < 2
    with pytest.raises(DataError, match=r"'kind 0', .* and 19990 more, but .*class 0, .* and 19990 more"):
        read(tmp_path, document, class_names=tuple(name.replace("class", "kind") for name in names))
    assert time.process_time() - start < 4
