"""A run that ends early says the commands that go on from what it finished."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stdet.artifacts import ModelFile
from stdet.modes import MODES
from stdet.runs.record import RunRecord
from stdet.runs.results import NotQuantized, Quantized, Trained
from stdet.stages.going_on import commands_to_go_on, told_how_to_go_on
from stdet.stages.run import Run


def a_run(folder: Path, *done: str, model: str | None = None, pretrained: bool = False) -> Run:
    """A run of `folder` in which the stages `done` have finished."""
    record = RunRecord(folder)
    best = ModelFile(folder / "models" / "best_ckpt.pth", "checkpoint")
    int8 = ModelFile(folder / "int8.onnx", "int8")
    made = {
        "train": Trained(best, folder / "latest_ckpt.pth", 1, 0.5, 0.6, 1.0, None),
        "quantize": Quantized(int8, 1, None, {}),
        "evaluate": SimpleNamespace(name="evaluate_float"),
    }
    record.results = {name: cast("Any", made[name]) for name in done if name in made}
    config = SimpleNamespace(
        model=SimpleNamespace(model_path=Path(model) if model else None, pretrained=pretrained),
        general=SimpleNamespace(saved_models_dir="models"),
    )
    return Run(cast("Any", SimpleNamespace(config=config)), record, cast("Any", None))


@pytest.mark.parametrize(
    ("mode", "finished", "expected"),
    [
        ("chain_tqeb", 1, ["operation_mode=chain_eqeb model.model_path=/r/models/best_ckpt.pth"]),
        ("chain_tqeb", 2, ["operation_mode=chain_eqeb model.model_path=/r/models/best_ckpt.pth"]),
        ("chain_tqe", 3, ["operation_mode=chain_eqe model.model_path=/r/models/best_ckpt.pth"]),
        (
            "chain_tqeb",
            4,
            [
                "operation_mode=evaluation model.model_path=/r/int8.onnx",
                "operation_mode=benchmarking model.model_path=/r/int8.onnx",
            ],
        ),
        ("chain_tqeb", 5, ["operation_mode=benchmarking model.model_path=/r/int8.onnx"]),
        ("chain_qd", 1, ["operation_mode=deployment model.model_path=/r/int8.onnx"]),
        ("training", 1, ["operation_mode=export model.model_path=/r/models/best_ckpt.pth"]),
        ("chain_eqe", 1, ["operation_mode=chain_eqe model.model_path=own.pth"]),
        ("chain_eqe", 0, []),
        ("chain_tqe", 0, []),
    ],
)
def test_each_stage_that_fails_leaves_a_way_on(mode: str, finished: int, expected: list[str]) -> None:
    stages = MODES[mode].stages
    run = a_run(Path("/r"), *stages[:finished], model="own.pth")
    found = commands_to_go_on(run, stages[finished:])
    assert found == [f"stdet run /r/config.yaml {words}" for words in expected]


def test_every_mode_has_a_way_on_from_every_stage() -> None:
    for mode in MODES.values():
        for finished in range(1, len(mode.stages)):
            run = a_run(Path("/r"), *mode.stages[:finished], model="own.pth")
            assert commands_to_go_on(run, mode.stages[finished:]), (mode.name, finished)


def test_a_training_that_stopped_goes_on_from_its_checkpoint_and_odd_names_are_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "my run, 1"
    (folder / "models").mkdir(parents=True)
    latest = folder / "models" / "latest_ckpt.pth"
    latest.touch()
    run = a_run(folder)
    (command,) = commands_to_go_on(run, ("train", "export"))
    assert command == f"stdet run '{folder}/config.yaml' 'training.resume_training_from=\"{latest}\"'"
    trained = commands_to_go_on(a_run(Path("/r"), "train", pretrained=True), ("export",))
    assert trained[0].endswith("best_ckpt.pth model.pretrained=False")


def test_what_ends_a_run_carries_the_commands() -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, told_how_to_go_on(a_run(Path("/r"), "train"), ("export",)):
        raise KeyboardInterrupt
    assert "go on with\nstdet run --resume /r\nor" in stopped.value.__notes__[0]
    nothing = a_run(Path("/r"))
    with pytest.raises(ValueError, match="bug") as bare, told_how_to_go_on(nothing, ("evaluate",)):
        raise ValueError("bug")
    assert not hasattr(bare.value, "__notes__")


def test_a_result_that_was_rejected_is_no_int8_model() -> None:
    run = a_run(Path("/r"), "train")
    run.record.results["quantize"] = NotQuantized("too much is lost", {})
    (command,) = commands_to_go_on(run, ("quantize", "evaluate"))
    assert "chain_eqe" in command
