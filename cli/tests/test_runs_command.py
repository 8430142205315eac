"""`stdet runs …` over generated run folders: fast, without numpy, and careful with what it deletes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stdet import api

BEST = b"best weights"


def make_run(folder: Path, *, ap: float = 0.5, done: int = 3, epochs: int = 3) -> Path:
    """A run of chain_eqeb's kind as it lies on disk, of which `done` stages are finished; with checkpoints around."""
    models = folder / "saved_models"
    models.mkdir(parents=True)
    for name in ("best_ckpt.pth", "latest_ckpt.pth", "epoch_1_ckpt.pth"):
        (models / name).write_bytes(BEST)
    files = {"saved_models/best_ckpt.pth": hashlib.sha256(BEST).hexdigest()}
    chain = ["train", "export", "evaluate", "quantize", "evaluate"]
    stages: dict[str, Any] = {"train": {}, "export": {}, "quantize": {}}
    for form, score in (("float", ap), ("int8", ap - 0.01)):
        stages[f"evaluate_{form}"] = {"metrics": {"AP": score, "AP50": score}, "model": {}}
    names = [["train"], ["export"], ["evaluate_float"], ["quantize"], ["evaluate_int8"]]
    steps = [
        {
            "stage": s,
            "results": n,
            "seconds": 1.0,
            "files": files if s == "train" else {},
            "model": None,
            "float_onnx": None,
        }
        for s, n in zip(chain, names, strict=True)
    ][:done]
    start = {"time": "2026-01-01T00:00:00+00:00", "environment": {"versions": {"stdet-core": "0.1.0"}, "platform": "p"}}
    data = {"train": {"images": 3, "classes": ["a"], "ground_truth_sha256": "0" * 64}}
    kept = {name: stages[name] for step in steps for name in step["results"]}
    onnx = {"float": {"path": "a.onnx", "bytes": 2048}, "int8": {"path": "b.onnx", "bytes": 1024}}
    document = {"format": "stdet.run/3", "run_dir": str(folder), "mode": "chain_tqe", "starts": [start], "data": data}
    (folder / "run.json").write_text(json.dumps(document | {"onnx": onnx, "steps": steps, "stages": kept}))
    (folder / "config.yaml").write_text(f"operation_mode: chain_tqe\ntraining: {{epochs: {epochs}}}\n")
    return folder


def test_hundreds_of_runs_are_listed_within_a_second_without_numpy_and_damaged_ones_as_such(tmp_path: Path) -> None:
    for index in range(300):
        make_run(tmp_path / f"run_{index:03}", done=5 if index else 2)
    (tmp_path / "run_007" / "run.json").write_text("{")
    begun = time.process_time()
    result = api.list_runs(tmp_path)
    assert time.process_time() - begun < 1
    lines = result.document["runs"]
    assert len(lines) == len(result.tables[0].rows) == 300
    assert lines[0]["state"] == "ended before evaluate"
    assert lines[7]["state"].startswith("damaged: ")
    assert {k: lines[1][k] for k in ("AP_float", "AP_int8", "size_kib", "state")} == {
        "AP_float": 0.5,
        "AP_int8": 0.49,
        "size_kib": 1.0,
        "state": "finished",
    }
    assert lines[1]["drop"] == pytest.approx(1)
    code = (
        "import sys; sys.argv=['stdet', 'runs', 'list', sys.argv[1], '--json']\nfrom stdet_cli.main import main\n"
        "try: main()\nexcept SystemExit as stop: assert not stop.code\n"
        "assert not {'numpy', 'torch', 'cv2', 'onnx'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == result.document


def test_two_runs_differ_in_config_and_results(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "a", done=5), make_run(tmp_path / "b", done=5, ap=0.75, epochs=9)
    found = api.compare_runs(one, other)
    assert found.document["config"] == {"training.epochs": [3, 9]}
    assert found.document["results"]["float.AP"] == [0.5, 0.75]
    assert ["float.AP", "0.5", "0.75", "+0.25"] in found.tables[-1].rows
    assert api.compare_runs(one, one).tables == []
    assert [table.title for table in api.show_run(one).tables] == ["stages", "data", "begun", "result"]


def test_what_changed_since_its_stage_is_found(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    assert not api.verify_runs([tmp_path]).failed
    (one / "saved_models" / "best_ckpt.pth").write_bytes(b"other")
    (other / "run.json").write_text("[]")
    found = api.verify_runs([tmp_path])
    assert found.failed
    assert ["isn't what train left" in found.tables[0].rows[0][2], "damaged" in found.tables[0].rows[1][2]] == [
        True,
        True,
    ]


def test_only_what_nothing_needs_is_deleted_and_only_when_told(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "epoch_9_ckpt.pth").write_bytes(b"")
    done, unfinished = make_run(tmp_path / "runs" / "a", done=5), make_run(tmp_path / "runs" / "b", done=1)
    (done / "saved_models" / "linked").symlink_to(outside)
    (done / "saved_models" / "epoch_2_ckpt.pth").symlink_to(outside / "epoch_9_ckpt.pth")
    before = sorted(tmp_path.rglob("*"))
    told = api.prune_runs(tmp_path / "runs")
    names = [done / "saved_models" / name for name in ("epoch_1_ckpt.pth", "latest_ckpt.pth")]
    assert list(told.document["files"]) == [str(name) for name in names]
    assert sorted(tmp_path.rglob("*")) == before
    assert api.prune_runs(tmp_path / "runs", delete=True).document["deleted"]
    assert sorted({*before} - {*tmp_path.rglob("*")}) == names
    assert (unfinished / "saved_models" / "latest_ckpt.pth").exists()
    assert not api.verify_runs([tmp_path / "runs"]).failed
    (done / "saved_models" / "best_ckpt.pth").unlink()
    (done / "saved_models" / "latest_ckpt.pth").write_bytes(BEST)
    assert api.prune_runs(tmp_path / "runs").document["files"] == {}  # the only weights that are left
