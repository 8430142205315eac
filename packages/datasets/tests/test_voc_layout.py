"""VOCdevkit: split lists that know their folders, several years at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest
from stdet_datasets.voc import VocDataset


def make_year(devkit: Path, year: str, stems: dict[str, str]) -> Path:
    """A year with images of 60 x 40 with one object each, of the given class; its list `trainval.txt`."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (devkit / year / name).mkdir(parents=True)
    for stem, name in stems.items():
        Image.new("RGB", (60, 40)).save(devkit / year / f"JPEGImages/{stem}.jpg")
        box = "<xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>20</ymax>"
        xml = f"<annotation><object><name>{name}</name><bndbox>{box}</bndbox></object></annotation>"
        (devkit / year / f"Annotations/{stem}.xml").write_text(xml)
    path = devkit / year / "ImageSets/Main/trainval.txt"
    path.write_text("".join(f"{stem}\n" for stem in stems))
    return path


def test_two_years_are_read_as_one_set_from_their_lists_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = (
        make_year(tmp_path, "VOC2007", {"000005": "dog", "000009": "cat"}),
        make_year(tmp_path, "VOC2012", {"2008_000001": "bird", "000005": "cat"}),
    )
    monkeypatch.chdir(tmp_path)
    dataset = VocDataset(DatasetRequest("train", split_path=tuple(path.relative_to(tmp_path) for path in lists)))
    assert dataset.class_names == ("bird", "cat", "dog")
    found = [dataset.annotation(i) for i in range(len(dataset))]
    names = [str(a.path.relative_to(tmp_path)) for a in found if a.path]
    assert names == [f"VOC2007/JPEGImages/{n}.jpg" for n in ("000005", "000009")] + [
        f"VOC2012/JPEGImages/{n}.jpg" for n in ("2008_000001", "000005")
    ]
    assert [a.labels.tolist() for a in found] == [[2], [1], [0], [1]]
    assert [a.image_id for a in found] == [0, 1, 2, 3]
    assert dataset.read_image(3).shape == (40, 60, 3)


def test_one_list_alone_and_folders_that_are_given_instead(tmp_path: Path) -> None:
    one = make_year(tmp_path, "VOC2007", {"000005": "dog"})
    assert len(VocDataset(DatasetRequest("val", split_path=one))) == 1
    second = one.with_name("more.txt")
    second.write_text("000006\n")
    folder = tmp_path / "VOC2007"
    (folder / "Annotations/000006.xml").write_text("<annotation/>")
    Image.new("RGB", (5, 5)).save(folder / "JPEGImages/000006.jpg")
    request = DatasetRequest("train", folder / "JPEGImages", folder / "Annotations", (one, second))
    assert len(VocDataset(request)) == 2, "several lists of the same folders"


def test_a_list_elsewhere_needs_the_folders(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a\n")
    with pytest.raises(DataError, match=r"dataset\.train_images_path is not set"):
        VocDataset(DatasetRequest("train", split_path=tmp_path / "list.txt"))


def test_an_image_in_two_lists_is_refused(tmp_path: Path) -> None:
    one = make_year(tmp_path, "VOC2007", {"000005": "dog"})
    with pytest.raises(DataError, match="two split lists name 000005"):
        VocDataset(DatasetRequest("train", split_path=(one, one)))


def test_an_image_whose_own_name_ends_as_a_vote_does_is_found(tmp_path: Path) -> None:
    names = make_year(tmp_path, "VOC2007", {"photo 1": "cat", "other": "cat"})
    names.write_text("photo 1\nother -1\n")
    dataset = VocDataset(DatasetRequest("train", split_path=names))
    assert [path.stem for i in range(2) if (path := dataset.annotation(i).path)] == ["photo 1", "other"]
