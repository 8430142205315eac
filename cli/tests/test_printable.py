"""Names from files and annotations never reach the terminal as commands to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stdet.interfaces.printable import printable, printable_json

EVIL = "a\x1b[2J\x07\x9b31m\u202egnp\udcff"


def test_what_a_terminal_obeys_is_written_as_an_escape() -> None:
    assert printable("Größe 東京 🙂 a\u00a0b\n") == "Größe 東京 🙂 a\u00a0b\n"
    assert printable(EVIL) == "a\\x1b[2J\\x07\\x9b31m\\u202egnp\\udcff"
    assert printable("a\tb\nc", keep="") == "a\\tb\\nc"
    assert printable("a\rb\u2028") == "a\\rb\\u2028"


def test_a_document_says_the_same_without_them() -> None:
    text = printable_json(json.dumps({"name": EVIL}, ensure_ascii=False))
    assert json.loads(text) == {"name": EVIL}
    assert text.isascii()


@pytest.mark.parametrize("command", ["check", "convert"])
def test_names_of_files_and_classes_are_shown_harmlessly(tmp_path: Path, command: str) -> None:
    document = {
        "images": [{"id": n, "file_name": f"{n}\x1b[2J.png", "width": 60, "height": 40} for n in (1, 2)],
        "categories": [{"id": 1, "name": "cat\x1b]0;x\x07"}],
        "annotations": [],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    more = [f"hydra.run.dir={tmp_path / 'run'}"]
    if command == "convert":
        more = ["-o", str(tmp_path / "out"), "--to", "yolo", "--image-files", "copy"]
    paths = ["--format", "coco", "--images", str(tmp_path), "--annotations", str(tmp_path / "a.json")]
    done = subprocess.run(
        [sys.executable, "-m", "stdet_cli.main", "data", command, *paths, *more], capture_output=True, check=False
    )
    assert done.returncode == 2
    shown = done.stdout + done.stderr
    assert b"\\x1b[2J" in shown
    assert not {0x1B, 0x07} & set(shown)
