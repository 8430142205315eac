"""The log of a run holds what people were shown; a tool that fails leaves no folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from stdet.errors import DataError
from stdet.interfaces.reporter import LineReporter, Reporters, SilentReporter
from stdet.runs.folder import log_file, tool_folder


def test_a_log_holds_stages_notes_progress_and_what_ended_the_run(tmp_path: Path) -> None:
    path = tmp_path / "stdet.log"
    error = DataError("no image", "look there")
    error.add_note("go on with x")

    def fail() -> None:
        with log_file(path) as log:
            reporter = Reporters(SilentReporter(), LineReporter(log))
            reporter.stage("train")
            reporter.note("evil\x1b[2J")
            reporter.progress("epoch 1/2", 5, 5, {"total": 1.5})
            logging.getLogger("stdet.data").info("a detail")
            raise error

    with pytest.raises(DataError):
        fail()
    text = path.read_text(encoding="utf-8")
    for said in ("== train", "evil\\x1b[2J", "epoch 1/2: 5/5  total 1.5", "INFO stdet.data: a detail"):
        assert said in text
    assert text.endswith("ERROR stdet: no image\nhint: look there\ngo on with x\n")
    assert logging.getLogger("stdet").handlers == []


def test_a_bug_stands_in_the_log_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), log_file(tmp_path / "stdet.log"):
        raise ZeroDivisionError("planted")
    text = (tmp_path / "stdet.log").read_text(encoding="utf-8")
    assert "Traceback" in text
    assert "ZeroDivisionError: planted" in text


def test_a_tool_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError), tool_folder(tmp_path / "a" / "check"):
        raise DataError("nothing to open")
    assert not (tmp_path / "a" / "check").exists()
    with tool_folder(tmp_path / "a" / "check") as folder:
        (folder / "data_check.json").touch()
    assert folder.is_dir()
