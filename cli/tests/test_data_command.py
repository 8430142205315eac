"""`stdet data` as a user meets it: exit codes, one JSON document, paths instead of a config."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SMALL = ("dataset.num_images=8", "dataset.image_size=64", "dataset.class_names=[disc, star]")


def stdet(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stdet_cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def document(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    done = stdet("data", "synth", "-o", tmp_path / "data", *SMALL, "--to", "voc", "--json")
    assert done.returncode == 0, done.stderr
    assert document(done)["splits"]["train"]["images"] == 8
    return tmp_path / "data"


def paths(data: Path) -> list[object]:
    train = data / "train"
    return ["--format", "voc", "--images", train / "JPEGImages", "--annotations", train / "Annotations"]


def test_convert_and_subset_need_no_config(data: Path, tmp_path: Path) -> None:
    done = stdet("data", "convert", "--to", "coco", "-o", tmp_path / "coco", *paths(data), "--split", "val")
    assert done.returncode == 0, done.stderr
    assert "coco/annotations/instances_val.json" in done.stdout
    one = stdet("data", "subset", *paths(data), "--classes", "star", "--to", "coco", "-o", tmp_path / "one", "--json")
    assert document(one)["class_names"] == ["star"]
    found = json.loads((tmp_path / "one/annotations/instances_train.json").read_text())
    assert found["categories"] == [{"id": 0, "name": "star"}]


def test_check_ends_with_two_when_the_data_has_errors_and_tells_all_in_json(data: Path, tmp_path: Path) -> None:
    keys = [data / "dataset.yaml", f"hydra.run.dir={tmp_path}/run"]
    sound = stdet("data", "check", *keys)
    assert sound.returncode == 0, sound.stderr
    assert "warning\tD401\ttrain" in sound.stdout
    (data / "train/JPEGImages/train_000002.png").write_bytes(b"")
    broken = stdet("data", "check", *keys, "--json")
    assert broken.returncode == 2
    assert document(broken)["counts"]["error"] == 1
    assert document(broken)["findings"][0]["id"] == "D002"
    assert "train_000002.png" in document(broken)["findings"][0]["examples"][0]
    assert "Traceback" not in broken.stderr


def test_stats_and_preview_leave_pictures(data: Path, tmp_path: Path) -> None:
    run = f"hydra.run.dir={tmp_path}/run"
    stats = document(stdet("data", "stats", run, *paths(data), "--json"))
    assert stats["splits"]["train"]["images"] == 8
    assert Path(stats["picture"]).stat().st_size > 10_000
    model = ["model.model_name=st_yolodv2milli_actrelu_pt", "model.input_shape=[3, 64, 64]", "dataset.num_workers=0"]
    shown = document(stdet("data", "preview", data / "dataset.yaml", run, *model, "--count", 3, "--json"))
    assert len(shown["samples"]) == 3
    assert Path(shown["picture"]).exists()


@pytest.mark.parametrize(
    "command", [["check"], ["stats"], ["convert", "--to", "coco", "-o", "OUT"]], ids=lambda c: c[0]
)
def test_torch_is_not_imported_where_no_model_is_asked(data: Path, tmp_path: Path, command: list[str]) -> None:
    code = (
        "import sys, stdet_cli.main as m\n"
        "try: m.main()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'stdet.data.source' in sys.modules and 'torch' not in sys.modules"
    )
    arguments = [a.replace("OUT", str(tmp_path / "out")) for a in command]
    keys = [str(data / "dataset.yaml"), f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(
        [sys.executable, "-c", code, "data", *arguments, *keys], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_mistakes_are_told_like_any_other(data: Path, tmp_path: Path) -> None:
    again = stdet("data", "synth", "-o", data, "--json")
    assert again.returncode == 2
    assert "exists already" in document(again)["error"]["message"]
    odd = stdet("data", "convert", data / "dataset.yaml", "--to", "cocoo", "-o", tmp_path / "x", "--json")
    assert odd.returncode == 2
    assert "did you mean `coco`" in document(odd)["error"]["message"]
    assert not (tmp_path / "x").exists()
    assert stdet("data", "subset", data / "dataset.yaml", "--count", 0, "-o", tmp_path / "x").returncode == 2
    assert "Traceback" not in odd.stderr
