"""Annotation files that are broken, hostile or absurd end in a `DataError` that names them, soon and with little memory."""

from __future__ import annotations

import codecs
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stdet.data import files
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset
from stdet_datasets import packed
from stdet_datasets.coco import CocoDataset
from stdet_datasets.voc import VocDataset
from stdet_datasets.yolo import YoloDataset

DOCUMENT = {
    "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
    "categories": [{"id": 1, "name": "é"}],
    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}
JSON = json.dumps(DOCUMENT, ensure_ascii=False, indent=1)
XML = (
    "<annotation>\n<object>\n<name>é</name>\n<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>10</xmax><ymax>20</ymax></bndbox>\n"
    "</object>\n</annotation>"
)


def coco(folder: Path, data: bytes, on_bad_data: str = "error") -> CocoDataset:
    Image.new("RGB", (60, 40)).save(folder / "a.png")
    (folder / "instances.json").write_bytes(data)
    return CocoDataset(DatasetRequest("train", folder, folder / "instances.json", on_bad_data=on_bad_data))  # type: ignore[arg-type]


def voc(folder: Path, data: bytes, on_bad_data: str = "error") -> VocDataset:
    Image.new("RGB", (60, 40)).save(folder / "a.png")
    (folder / "a.xml").write_bytes(data)
    return VocDataset(DatasetRequest("train", folder, folder, on_bad_data=on_bad_data))  # type: ignore[arg-type]


def test_json_may_begin_with_a_byte_order_mark_but_must_be_utf_8(tmp_path: Path) -> None:
    for text in (JSON.encode(), codecs.BOM_UTF8 + JSON.encode()):
        assert coco(tmp_path, text).class_names == ("é",)
    for encoding in ("utf-16", "utf-16-be", "utf-32", "latin-1"):
        with pytest.raises(DataError, match=r"instances\.json"):
            coco(tmp_path, JSON.encode(encoding))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "iso-8859-1"])
def test_xml_is_read_in_the_encoding_that_it_declares(tmp_path: Path, encoding: str) -> None:
    declared = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>\n{XML}'
    assert voc(tmp_path, declared.encode(encoding)).class_names == ("é",)


@pytest.mark.parametrize("encoding", ["klingon", "utf-32", "utf-7", "idna", "hex", "x" * 300])
def test_xml_in_an_unknown_encoding_is_a_data_error(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(DataError, match=r"a\.xml"):
        voc(tmp_path, f'<?xml version="1.0" encoding="{encoding}"?>\n{XML}'.encode())


ENTITIES = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "ha" * 20}">' for n in range(12))
HOSTILE_XML = {
    "billion laughs": f"<!DOCTYPE a [{ENTITIES}]><annotation>&e11;</annotation>",
    "quadratic": f'<!DOCTYPE a [<!ENTITY e "{"x" * 50_000}">]><annotation>{"&e;" * 50_000}</annotation>',
    "external entity": '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>',
    "external DTD": '<!DOCTYPE a SYSTEM "http://localhost:9/a.dtd"><annotation/>',
    "parameter entity": '<!DOCTYPE a [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]><annotation/>',
}


@pytest.mark.parametrize("kind", HOSTILE_XML)
def test_xml_that_declares_anything_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    start = time.process_time()
    with pytest.raises(DataError, match="declares a DTD or entities"):
        voc(tmp_path, HOSTILE_XML[kind].encode())
    assert time.process_time() - start < 2


def test_deep_nesting_neither_crashes_nor_hangs(tmp_path: Path) -> None:
    start = time.process_time()
    with pytest.raises(DataError, match=r"malformed JSON|not a COCO instances file"):
        coco(tmp_path, b'{"images": ' + b"[" * 1_000_000)
    with pytest.raises(DataError, match=r"instances\.json"):
        coco(tmp_path, b'{"x": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"," + JSON.encode()[1:])
    with pytest.raises(DataError, match=r"a\.xml:1: malformed XML"):
        voc(tmp_path, b"<a>" * 100_000)
    assert len(voc(tmp_path, b"<annotation>" * 100_000 + b"</annotation>" * 100_000).annotation(0).labels) == 0
    assert time.process_time() - start < 10


def test_an_enormous_annotation_file_of_one_image_is_refused_unread(tmp_path: Path) -> None:
    voc(tmp_path, XML.encode())
    with (tmp_path / "a.xml").open("r+b") as file:
        file.truncate(1 << 32)
    with pytest.raises(DataError, match=rf"4294967296 bytes; the limit is {files.MAX_TEXT_BYTES}"):
        VocDataset(DatasetRequest("train", tmp_path, tmp_path))


def test_absurdly_many_boxes_in_an_image_are_named_and_skipped_only_when_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    many = packed.MAX_OBJECTS + 1
    kind = rf"1 images with too many objects .*a\.png .*the limit is {packed.MAX_OBJECTS}"
    boxes = DOCUMENT["annotations"] * many
    data = json.dumps(DOCUMENT | {"annotations": boxes}).encode()
    with pytest.raises(DataError, match=kind):
        coco(tmp_path, data)
    assert len(coco(tmp_path, data, "skip").annotation(0).labels) == 0
    assert "left out 1 images with too many objects" in caplog.text
    full = json.dumps(DOCUMENT | {"annotations": boxes[:-1]}).encode()
    assert len(coco(tmp_path, full).annotation(0).labels) == packed.MAX_OBJECTS
    (tmp_path / "a.txt").write_text("0 .5 .5 .5 .5\n" * many)
    with pytest.raises(DataError, match=kind):
        YoloDataset(DatasetRequest("train", tmp_path, class_names=("cat",)))


def test_a_number_that_json_does_not_know_is_malformed_and_named_by_its_line(tmp_path: Path) -> None:
    for number in ("nan", "inf", "+1", "0x1", "1e", "01"):
        lines = JSON.replace("\n    2,", f"\n    {number},").split("\n")
        line = 1 + next(n for n, text in enumerate(lines) if number + "," in text)
        with pytest.raises(DataError, match=rf"instances\.json:{line}: malformed JSON"):
            coco(tmp_path, "\n".join(lines).encode())
        lines.insert(0, '{"NaN": NaN,')  # what else is odd doesn't move the line
        lines[1] = lines[1].removeprefix("{")
        with pytest.raises(DataError, match=rf"instances\.json:{line + 1}: malformed JSON"):
            coco(tmp_path, "\n".join(lines).encode())


NOT_VOC = {
    "an error page": "<html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>",
    "a drawing": '<svg xmlns="http://www.w3.org/2000/svg"/>',
    "CVAT": '<annotations><image name="a.png"><box label="car" xtl="1" ytl="2" xbr="3" ybr="4"/></image></annotations>',
    "dlib": '<dataset><images><image file="a.png"><box top="1" left="2" width="3" height="4"/></image></images></dataset>',
    "a namespace": XML.replace("<annotation>", '<annotation xmlns="http://example.invalid/voc">'),
    "an object alone": "<object><name>car</name></object>",
}


@pytest.mark.parametrize("kind", NOT_VOC)
def test_xml_that_is_not_voc_is_a_fault_and_no_image_without_objects(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"1 unusable annotation files .*a\.xml is no Pascal VOC file: its root is <"):
        voc(tmp_path, NOT_VOC[kind].encode())
    assert len(voc(tmp_path, NOT_VOC[kind].encode(), "skip")) == 0


@pytest.mark.parametrize(
    ("text", "difficult"),
    [
        *((text, True) for text in ("1", "true", " True\n", "yes")),
        *((text, False) for text in ("0", "false", "", "no", "Unspecified")),
    ],
)
def test_difficult_may_be_a_word(tmp_path: Path, text: str, difficult: bool) -> None:
    data = XML.replace("<bndbox>", f"<difficult>{text}</difficult><bndbox>").encode()
    assert voc(tmp_path, data).annotation(0).ignore.tolist() == [difficult]


def test_a_word_that_is_neither_is_a_fault(tmp_path: Path) -> None:
    data = XML.replace("<bndbox>", "<difficult>perhaps</difficult><bndbox>").encode()
    with pytest.raises(DataError, match="object 1 is neither difficult nor not: 'perhaps'"):
        voc(tmp_path, data)


def test_images_without_xml_are_told_when_there_is_no_list(tmp_path: Path) -> None:
    for name in ("b.png", "c.webp"):
        Image.new("RGB", (60, 40)).save(tmp_path / name)
    dataset = voc(tmp_path, XML.encode())
    assert len(dataset) == 1
    assert any("2 images without an annotation file" in note and "b.png" in note for note in dataset.notes)
    (tmp_path / "list.txt").write_text("a\n")
    assert not VocDataset(DatasetRequest("train", tmp_path, tmp_path, tmp_path / "list.txt")).notes


def test_two_images_of_one_annotation_file_are_a_fault(tmp_path: Path) -> None:
    voc(tmp_path, XML.encode())
    Image.new("RGB", (30, 40)).save(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"1 images that share a label file .*a\.jpg and a\.png"):
        VocDataset(DatasetRequest("train", tmp_path, tmp_path))


def test_pipes_among_text_files_are_refused_and_never_waited_for(tmp_path: Path) -> None:
    voc(tmp_path, XML.encode())
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe is a pipe or a device"):
        VocDataset(DatasetRequest("train", tmp_path, tmp_path, tmp_path / "pipe"))
    with pytest.raises(DataError, match="is a pipe or a device"):
        VocDataset(DatasetRequest("train", tmp_path, tmp_path, Path("/dev/zero")))
    for suffix in ("xml", "txt"):
        (tmp_path / f"a.{suffix}").unlink(missing_ok=True)
        os.mkfifo(tmp_path / f"a.{suffix}")
    for reader in (VocDataset, YoloDataset):
        with pytest.raises(DataError, match=r"1 unusable annotation files .*a\.(xml|txt) is a pipe or a device"):
            reader(DatasetRequest("train", tmp_path, tmp_path, class_names=("cat",)))


LEVELS = "\n".join(
    ["a0: &a0 {" + ", ".join(f"k{i}: x" for i in range(9)) + "}"]
    + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 40)]
)
HOSTILE_YAML = {
    "merge keys": f"{LEVELS}\nnames: [cat, dog]",
    "aliases": "\n".join(["a0: &a0 [x]"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)])
    + "\nnames: [cat, dog]",
    "an alias in its own key": "? &a [*a]\n: 1\nnames: [cat, dog]",
}


@pytest.mark.parametrize("kind", HOSTILE_YAML)
def test_yaml_that_unfolds_without_end_is_read_for_its_names_alone(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "data.yaml").write_text(HOSTILE_YAML[kind])
    start = time.process_time()
    assert YoloDataset(DatasetRequest("train", tmp_path)).class_names == ("cat", "dog")
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "text", ["names: " + "[" * 200_000, "{a: " * 100_000, "names: [cat, [dog]]", "names: [cat, ~]"]
)
def test_yaml_without_a_plain_list_of_names_is_refused(tmp_path: Path, text: str) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"data\.yaml"):
        YoloDataset(DatasetRequest("train", tmp_path))


def garbled(text: bytes) -> st.SearchStrategy[bytes]:
    """`text` with a piece replaced: by other bytes, by other parts of itself, by numbers that parsers stumble over."""
    pieces = st.one_of(
        st.binary(max_size=12),
        st.tuples(st.integers(0, len(text)), st.integers(0, 40)).map(lambda cut: text[cut[0] : cut[0] + cut[1]]),
        st.sampled_from([b"1e999", b"-1", b"9" * 5000, b"nan", b"null", b"[]", b"{}", b'""', b"\x00", b"\xff\xfe"]),
    )
    cuts = st.tuples(st.integers(0, len(text)), st.integers(0, 30))
    return st.tuples(cuts, pieces).map(lambda made: text[: made[0][0]] + made[1] + text[sum(made[0]) :])


def assert_read_or_data_error(
    read: Callable[..., DetectionDataset], tmp_path: Path, data: bytes, on_bad_data: str
) -> None:
    try:
        dataset = read(tmp_path, data, on_bad_data)
    except DataError as error:
        assert str(tmp_path) in error.message or "train set" in error.message
    else:
        for index in range(len(dataset)):
            dataset.annotation(index)


FUZZ = settings(max_examples=60, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(garbled(JSON.encode()), st.sampled_from(["error", "skip"]))
def test_garbled_json_is_read_or_a_data_error(tmp_path: Path, data: bytes, on_bad_data: str) -> None:
    assert_read_or_data_error(coco, tmp_path, data, on_bad_data)


@FUZZ
@given(garbled(XML.encode()), st.sampled_from(["error", "skip"]))
def test_garbled_xml_is_read_or_a_data_error(tmp_path: Path, data: bytes, on_bad_data: str) -> None:
    assert_read_or_data_error(voc, tmp_path, data, on_bad_data)


@FUZZ
@given(st.lists(st.text(max_size=20), max_size=4).map("\n".join))
def test_garbled_split_lists_are_read_or_a_data_error(tmp_path: Path, text: str) -> None:
    voc(tmp_path, XML.encode())
    (tmp_path / "list.txt").write_bytes(text.encode("utf-8", "replace"))
    try:
        VocDataset(DatasetRequest("train", tmp_path, tmp_path, tmp_path / "list.txt"))
    except DataError:
        pass
