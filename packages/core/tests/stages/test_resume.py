"""`resume_training_from: auto` takes the newest run that this one can go on with, whatever lies beside it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from stdet.engine.checkpoint import save_checkpoint
from stdet.engine.resume import RunFacts
from stdet.stages.resume import Resumed, checkpoint_to_resume
from stdet.stages.run import Run

OPTIMIZER = ["SGD", [{"learning_rate": 0.1, "momentum": 0.9}]]
MINE = RunFacts({"model_name": "m"}, 5, True, None, 1, 7, 4, OPTIMIZER)


def a_run(folder: Path, wanted: str | None = "auto") -> tuple[Run, list[str]]:
    """A run of ten epochs in `folder` / `mine`, and what it tells people."""
    notes: list[str] = []
    training = SimpleNamespace(resume_training_from=wanted, epochs=10)
    config = SimpleNamespace(training=training, general=SimpleNamespace(saved_models_dir="models"))
    run = SimpleNamespace(
        builder=SimpleNamespace(config=config, catalogue=None),
        folder=folder / "mine",
        reporter=SimpleNamespace(note=notes.append),
    )
    return cast("Run", cast("Any", run)), notes


def neighbour(folder: Path, name: str, age: int, **changes: Any) -> Path:
    """A checkpoint of another run, `age` seconds old."""
    facts = dataclasses.replace(MINE, **{k: v for k, v in changes.items() if k in vars(MINE)})
    path = folder / name / "models" / "latest_ckpt.pth"
    state = {
        "spec": facts.model,
        "steps_per_epoch": facts.steps_per_epoch,
        "settings": {"ema": facts.ema, "quantization_aware": None, "accumulate": facts.accumulate},
        "data_seed": facts.data_seed,
        "run": facts.document(),
        "epoch": changes.get("epoch", 3),
        "ending": changes.get("ending"),
    }
    save_checkpoint(path, {k: v for k, v in state.items() if k != changes.get("without")})
    return aged(path, age)


def aged(path: Path, age: int) -> Path:
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def raw(folder: Path, name: str, age: int) -> Path:
    path = folder / name / "models" / "latest_ckpt.pth"
    path.parent.mkdir(parents=True)
    return path


def test_auto_takes_the_newest_that_fits_and_says_what_it_passed_over(tmp_path: Path) -> None:
    whole = neighbour(tmp_path, "old", 50)
    neighbour(tmp_path, "older", 60)
    raw(tmp_path, "torn", 0).write_bytes(whole.read_bytes()[:300])
    torch.save({"model": {}}, raw(tmp_path, "foreign", 0))
    raw(tmp_path, "folder", 0).mkdir()
    for name in ("torn", "foreign"):
        aged(tmp_path / name / "models" / "latest_ckpt.pth", 1)
    neighbour(tmp_path, "headless", 2, without="spec")
    neighbour(tmp_path, "batches", 3, images_per_step=8)
    neighbour(tmp_path, "rate", 4, optimizer=["SGD", [{"learning_rate": 0.2, "momentum": 0.9}]])
    neighbour(tmp_path, "another model", 5, model={"model_name": "n"})
    neighbour(tmp_path, "finished", 6, epoch=10)
    neighbour(tmp_path, "ended early", 7, ending="no better AP")
    run, notes = a_run(tmp_path)
    assert checkpoint_to_resume(run, MINE) == Resumed(whole)
    said = "\n".join(notes)
    assert len(notes) == 5
    for text in (
        "torn",
        "foreign",
        "'spec' is missing",
        "images per step: 8 there, 4 here",
        "learning_rate: 0.2 there, 0.1",
    ):
        assert text in said


def test_auto_starts_anew_when_nothing_fits(tmp_path: Path) -> None:
    neighbour(tmp_path, "batches", 3, images_per_step=8)
    run, notes = a_run(tmp_path)
    assert checkpoint_to_resume(run, MINE) is None
    assert "starting anew" in notes[-1]


@pytest.mark.parametrize("wanted", [None, "some/latest_ckpt.pth"])
def test_a_path_is_taken_as_it_is(wanted: str | None, tmp_path: Path) -> None:
    run, _ = a_run(tmp_path, wanted)
    assert checkpoint_to_resume(run, MINE) == (Resumed(Path(wanted)) if wanted else None)
