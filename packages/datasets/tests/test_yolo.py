"""The YOLO reader: where labels and class names are found, and a line number for everything that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, Fault
from stdet_datasets.yolo import YoloDataset


def make(root: Path, labels: dict[str, str], images: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    """60 x 40 images in `root/images/train`, labels in `root/labels/train`."""
    for name in images:
        path = root / "images/train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40)).save(path)
    for name, text in labels.items():
        path = root / "labels/train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return root / "images/train"


def read(folder: Path, *names: str, **more: Any) -> YoloDataset:
    return YoloDataset(DatasetRequest("train", folder, class_names=names or None, **more))


def test_boxes_are_shares_of_the_image_and_labels_lie_in_the_parallel_folder(tmp_path: Path) -> None:
    folder = make(tmp_path, {"a.txt": "1 0.5 0.5 0.5 0.25\n\n0 0.1 0.1 0.4 0.1\n"})
    dataset = read(folder, "cat", "dog")
    a = dataset.annotation(0)
    assert a.path == folder / "a.png"
    np.testing.assert_allclose(a.boxes, [[15, 15, 45, 25], [0, 2, 18, 6]], rtol=1e-6)
    assert a.labels.tolist() == [1, 0]
    np.testing.assert_allclose(a.areas, [300, 72], rtol=1e-6)
    assert not a.ignore.any()
    assert len(dataset.annotation(1).labels) == 0, "an image without a label file has no objects"


def test_labels_may_lie_beside_the_images_or_where_the_config_says(tmp_path: Path) -> None:
    folder = make(tmp_path / "images", {})  # the last `images` of the path counts; it has no `labels` beside it
    (folder / "a.txt").write_text("0 .5 .5 1 1")
    assert read(folder, "cat").annotation(0).boxes.tolist() == [[0, 0, 60, 40]]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.txt").write_text("0 .5 .5 .5 .5")
    dataset = read(folder, "cat", annotations_path=tmp_path / "elsewhere")
    assert [len(dataset.annotation(i).labels) for i in range(2)] == [0, 1]


def test_images_in_folders_below_have_labels_in_folders_below(tmp_path: Path) -> None:
    folder = make(tmp_path, {"day/a.txt": "0 .5 .5 .5 .5", "b.txt": ""}, ("day/a.jpg", "b.png"))
    dataset = read(folder, "cat")
    assert [len(dataset.annotation(i).labels) for i in range(2)] == [0, 1]
    assert dataset.annotation(1).path == folder / "day/a.jpg"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels/train/classes.txt", "cat\r\ndog\r\n"),
        ("data.yaml", "names: [cat, dog]\nnc: 2"),
        ("labels/data.yaml", "names: {1: dog, 0: cat}"),
    ],
)
def test_class_names_are_found_near_the_labels(tmp_path: Path, name: str, text: str) -> None:
    folder = make(tmp_path, {"a.txt": "1 .5 .5 .5 .5\n0 .5 .5 .5 .5"})
    (tmp_path / name).write_text(text)
    assert read(folder).class_names == ("cat", "dog")
    assert read(folder, "dog").annotation(0).labels.tolist() == [0]
    assert read(folder, "dog", "cat").annotation(0).labels.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"'horse'.*only: cat, dog"):
        read(folder, "horse")


def test_without_class_names_nothing_is_guessed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing tells the classes"):
        read(make(tmp_path, {"a.txt": "0 .5 .5 .5 .5"}))


@pytest.mark.parametrize(
    "text", ["", "names: 3", "names: {0: a, 2: b}", "names: [a, a]", "names: [[a]]", "\tx", "names: ['', b]"]
)
def test_class_lists_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    folder = make(tmp_path, {"a.txt": ""})
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"data\.yaml"):
        read(folder, "cat")


BAD_LINES = [
    ("0 .5 .5 .5", "4 values are too few"),
    ("0 .5 .5 .5 .5 .6 .6", "7 values are a polygon"),
    ("0 .5 .5 .5 .5 .9", "6 values are more than a box"),
    ("cat .5 .5 .5 .5", "the class must be a number from 0 on, not 'cat'"),
    ("-1 .5 .5 .5 .5", "not '-1'"),
    ("2 .5 .5 .5 .5", "class 2, but there are 2 classes"),
    ("99999999999999999999 .5 .5 .5 .5", "the class must be"),
    ("0 .5 x .5 .5", "aren't four numbers"),
    ("0 30 20 10 10", "30 is no share of the image's size"),
    ("0 .5 .5 inf .5", "inf is no share"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named_by_file_and_line_and_skipped_only_when_asked(
    tmp_path: Path, line: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(tmp_path, {"a.txt": f"0 .5 .5 .5 .5\n\n{line}\n1 .5 .5 .5 .5\n"})
    with pytest.raises(DataError, match=rf"1 unusable label lines .*a\.txt:3: .*{message}"):
        read(folder, "cat", "dog")
    assert read(folder, "cat", "dog", on_bad_data="skip").annotation(0).labels.tolist() == [0, 1]
    assert "a.txt:3" in caplog.text


@pytest.mark.parametrize("box", ["nan .5 .5 .5", ".5 .5 -.5 .5", ".5 .5 0 .5", "-3 .5 .5 .5", "-inf .5 .5 .5"])
def test_boxes_that_are_none_are_counted(tmp_path: Path, box: str) -> None:
    folder = make(tmp_path, {"a.txt": f"0 {box}\n0 .5 .5 .5 .5"})
    with pytest.raises(DataError, match="1 boxes outside the image or without area"):
        read(folder, "cat")
    assert len(read(folder, "cat", on_bad_data="skip").annotation(0).labels) == 1


def test_files_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    folder = make(tmp_path, {"a.txt": "", "gone.txt": "0 .5 .5 .5 .5"}, ("a.png", "a.jpg"))
    faults: list[Fault] = []
    read(folder, "cat", on_fault=faults.append)
    assert {f.kind for f in faults} == {"images that share a label file", "label files without an image"}
    assert "gone.txt" in faults[-1].where


def test_a_label_file_in_an_unknown_encoding_leaves_its_image_out(tmp_path: Path) -> None:
    folder = make(tmp_path, {"a.txt": "0 .5 .5 .5 .5\udcff"})
    with pytest.raises(DataError, match=r"1 unusable annotation files .*a\.txt"):
        read(folder, "cat")
    assert len(read(folder, "cat", on_bad_data="skip")) == 1


def test_an_enormous_label_file_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, {"a.txt": ""})
    with (tmp_path / "labels/train/a.txt").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(DataError, match="the limit is"):
        read(folder, "cat")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.one_of(st.floats(width=32).map(str), st.integers().map(str), st.text(max_size=5)), max_size=14)
        .map(" ".join)
        .map(lambda text: text.encode("utf-8", "replace")),
    ),
    st.one_of(
        st.none(), st.binary(max_size=40), st.text(max_size=30).map(lambda t: f"names: {t}".encode("utf-8", "replace"))
    ),
)
def test_no_label_or_class_file_makes_the_reader_fail_with_anything_but_a_data_error(
    tmp_path: Path, label: bytes, classes: bytes | None
) -> None:
    folder = make(tmp_path, {"a.txt": ""})
    (tmp_path / "labels/train/a.txt").write_bytes(label)
    (tmp_path / "data.yaml").unlink(missing_ok=True)
    if classes is not None:
        (tmp_path / "data.yaml").write_bytes(classes)
    for on_bad_data in ("error", "skip"):
        try:
            dataset = read(folder, "cat", "dog", on_bad_data=on_bad_data)
        except DataError:
            continue
        for index in range(len(dataset)):
            a = dataset.annotation(index)
            assert np.isfinite(a.boxes).all()
            assert (a.boxes[:, 2:] > a.boxes[:, :2]).all()


def test_lists_choose_images_by_name_with_or_without_suffix(tmp_path: Path) -> None:
    folder = make(tmp_path, {"c.txt": "0 .5 .5 .5 .5"}, ("a.png", "b.1.png", "c.png"))
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("c.png\nb.1\n")
    two.write_text("a\n")

    def named(*lists: Path) -> list[str]:
        dataset = read(folder, "cat", split_path=lists if len(lists) > 1 else lists[0])
        return [path.name for i in range(len(dataset)) if (path := dataset.annotation(i).path)]

    assert named(one) == ["c.png", "b.1.png"]
    assert named(one, two) == ["c.png", "b.1.png", "a.png"]
    assert len(read(folder, "cat", split_path=one).annotation(0).labels) == 1
    two.write_text("a\nc\n")
    with pytest.raises(DataError, match=r"lists name c\.png twice"):
        named(one, two)
    two.write_text("a\nnowhere.jpg\n")
    with pytest.raises(DataError, match=r"nowhere\.jpg, named in .*two\.txt"):
        named(two)
    two.write_text("../a\n")
    with pytest.raises(DataError, match="leaves the folder"):
        named(two)
