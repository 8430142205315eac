"""Text files of users are files, and of a size that somebody wrote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stdet.config import load_text
from stdet.data.files import MAX_TEXT_BYTES, check_file
from stdet.data.source import DataSource
from stdet.errors import DataError
from stdet.plugins.loader import load_plugins


def test_what_never_ends_or_is_enormous_is_refused_before_it_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.txt").touch()
    os.truncate(tmp_path / "large.txt", MAX_TEXT_BYTES + 1)
    (tmp_path / "small.txt").write_text("cat\n")
    for path, kind in ((tmp_path / "pipe", "a pipe or a device"), (Path("/dev/zero"), "a pipe or a device")):
        with pytest.raises(DataError, match=kind):
            check_file(path)
    with pytest.raises(DataError, match="is a folder"):
        check_file(tmp_path)
    with pytest.raises(DataError, match=rf"{MAX_TEXT_BYTES + 1} bytes; the limit is {MAX_TEXT_BYTES}"):
        check_file(tmp_path / "large.txt")
    check_file(tmp_path / "large.txt", None)
    check_file(tmp_path / "small.txt")
    check_file(tmp_path / "absent.txt")


@pytest.mark.parametrize("name", ["pipe", "large.txt", "/dev/zero", "absent.txt"])
def test_a_list_of_classes_that_cannot_be_read_is_a_data_error_that_names_it(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.txt").touch()
    os.truncate(tmp_path / "large.txt", MAX_TEXT_BYTES + 1)
    catalogue, _ = load_plugins()
    text = f"dataset: {{ dataset_name: folder, classes_file_path: {tmp_path / name} }}"
    source = DataSource(load_text(text, "test", [], catalogue, data_only=True), catalogue)
    with pytest.raises(DataError, match=Path(name).name):
        source.class_names()
