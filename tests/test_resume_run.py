"""A chain that failed goes on in its folder from the stage that failed; what is finished is checked and not done again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stdet import api, stages
from stdet.errors import ArtifactError, QuantizationError
from stdet.interfaces.reporter import SilentReporter

CONFIG = """\
operation_mode: chain_tqe
general: { logger: null }
model: { model_name: st_yolodv2milli_actrelu_pt, input_shape: [3, 64, 64] }
dataset: { dataset_name: synthetic, class_names: [disc, square], num_images: 16, image_size: 64, num_workers: 0 }
training: { batch_size: 8, epochs: 1, no_aug_epochs: 0, device: cpu }
postprocessing: { plot_metrics: False }
quantization: { onnx_quant_parameters: { calibrate_method: MinMax } }
hydra: { run: { dir: "FOLDER/run" } }
"""


def refuse(run: object) -> None:
    raise QuantizationError("no room")


@pytest.fixture
def failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """The folder of a chain whose quantization failed, and what it said."""
    (tmp_path / "c.yaml").write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    with monkeypatch.context() as broken:
        broken.setitem(stages.WORK, "quantize", refuse)
        with pytest.raises(QuantizationError) as caught:
            api.run(api.load_config(tmp_path / "c.yaml"), SilentReporter())
    return tmp_path / "run", "\n".join(caught.value.__notes__)


def test_a_failed_chain_says_how_and_goes_on_and_only_what_is_left_is_done(
    failed: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = failed
    assert f"quantize didn't finish; finished: train, export, evaluate; it stays in {folder}" in said
    assert f"stdet run --resume {folder}" in said
    for name in ("train", "export"):
        monkeypatch.setitem(stages.WORK, name, refuse)
    before = json.loads((folder / "run.json").read_text())
    result = api.resume(folder, SilentReporter())
    assert result.run_dir == folder
    found = result.document
    assert found == json.loads((folder / "run.json").read_text())
    assert [step["stage"] for step in found["steps"]] == ["train", "export", "evaluate", "quantize", "evaluate"]
    assert found["steps"][:3] == before["steps"]
    assert {name: found["stages"][name] for name in before["stages"]} == before["stages"]
    assert found["stages"]["evaluate_int8"]["metrics"]["AP50"] is not None
    assert [row[0] for row in result.tables[-1].rows] == ["float", "int8"]
    assert len(found["starts"]) == 2
    assert {"stdet-core", "torch"} <= found["starts"][0]["environment"]["versions"].keys()
    assert found["data"]["train"]["images"] == 16
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["outcome"] for row in rows if "outcome" in row] == ["failed", "finished"]
    monkeypatch.setitem(stages.WORK, "evaluate", refuse)
    assert api.resume(folder, SilentReporter()).document == found  # nothing is left


def test_a_finished_stage_whose_file_is_another_is_not_gone_on_from(failed: tuple[Path, str]) -> None:
    folder, _ = failed
    best = folder / "saved_models" / "best_ckpt.pth"
    best.write_bytes(best.read_bytes() + b"x")
    next(folder.glob("**/*.onnx")).unlink()
    with pytest.raises(ArtifactError, match=r"best_ckpt.pth isn't what train left; .*onnx of export is gone"):
        api.resume(folder, SilentReporter())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no run's folder"),
        ("{", "damaged"),
        ('{"format": "stdet.run/2"}', "another version"),
        ('{"format": "stdet.run/3", "mode": "x", "steps": []}', "damaged: KeyError"),
        ('{"format": "stdet.run/3", "mode": "training", "steps": [{"stage": "bench"}]}', "no stages of training"),
    ],
)
def test_what_is_no_record_of_a_run_is_told(tmp_path: Path, text: Any, said: str) -> None:
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(ArtifactError) as caught:
        api.resume(tmp_path, SilentReporter())
    assert said in str(caught.value)


def test_a_training_that_was_stopped_goes_on_from_its_latest_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG.replace("FOLDER", str(tmp_path)).replace("chain_tqe", "training"))
    from stdet.engine.callbacks import Callback

    class Stop(Callback):
        def after_evaluation(self, trainer: Any, metrics: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        api.run(api.load_config(tmp_path / "c.yaml", ["training.epochs=2"]), SilentReporter(), [Stop()])
    assert "train didn't finish; what there is stays in" in "".join(caught.value.__notes__)
    result = api.resume(tmp_path / "run", SilentReporter())
    assert [step["stage"] for step in result.document["steps"]] == ["train", "export"]
    epochs = json.loads((tmp_path / "run" / "saved_models" / "history.json").read_text())["epochs"]
    assert [row["epoch"] for row in epochs] == [1, 2]
