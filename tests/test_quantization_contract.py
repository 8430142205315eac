"""stdet quantize as a contract: the budget, the doctor, noise, foreign files, from the command's side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from stdet.errors import DataError, QuantizationError

CONFIG = """\
operation_mode: quantization
model: {{ model_name: {model}, model_path: {out}/model.onnx }}
dataset:
  dataset_name: synthetic
  class_names: [disc, square]
  num_images: 24
  quantization_split: 0.25
  image_size: 64
  num_workers: 0
quantization: {{ iterative_quant_parameters: {{ inspection_images: 1 }} }}
hydra: {{ run: {{ dir: {out}/run }} }}
"""


def stdet(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stdet_cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )


def run(config: Path, folder: Path, *overrides: str) -> list[str]:
    """Run in this process; returns the notes."""
    from stdet import api
    from stdet.interfaces.reporter import SilentReporter

    notes: list[str] = []

    class Listening(SilentReporter):
        def note(self, message: str) -> None:
            notes.append(message)

    api.run(api.load_config(config, [*overrides, f"hydra.run.dir={folder / 'run'}"]), Listening())
    return notes


def exported(folder: Path, model: str, size: tuple[int, int]) -> Path:
    """An untrained model of ours whose scores are high enough to be scored, as ONNX; returns its config."""
    import torch

    from stdet.build import Builder
    from stdet.config import load_text
    from stdet.export.onnx import export_onnx
    from stdet.plugins.loader import load_plugins

    text = CONFIG.format(model=model, out=folder)
    catalogue = load_plugins()[0]
    (folder / "model.onnx").touch()
    config = load_text(text, "c", [f"model.input_shape=[3, {size[0]}, {size[1]}]"], catalogue)
    builder = Builder(config, catalogue)
    torch.manual_seed(0)
    export_onnx(builder.detector(builder.spec(("disc", "square"))), folder / "model.onnx", provenance={})
    (folder / "c.yaml").write_text(text)
    return folder / "c.yaml"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("yolod"), "st_yolodv2milli_actrelu_pt", (64, 96))


@pytest.fixture
def one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ranking of a single tensor: the real one runs the model hundreds of times, and has its own tests."""
    from stdet_deploy_stm32.quantize import modes
    from stdet_deploy_stm32.quantize.inspection import Effect

    monkeypatch.setattr(modes, "rank", lambda *args: [Effect("weight", "w", "stem", "Conv", {"output": 12.0})])


@pytest.mark.usefixtures("one_tensor")
def test_images_without_an_object_cannot_judge(config: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the test set has nothing to score"):
        run(config, tmp_path, "quantization.max_drop=1", "dataset.num_images=6")


@pytest.mark.parametrize(
    ("model", "size", "parts"),
    [
        ("st_yolodv2milli_actrelu_pt", (64, 96), {"boxes", "objectness", "classes"}),
        ("ssdlite_mobilenetv3small_pt", (96, 96), {"boxes", "classes"}),
    ],
)
def test_within_the_budget_the_file_takes_its_name_and_says_what_it_scored(
    tmp_path: Path, model: str, size: tuple[int, int], parts: set[str]
) -> None:
    path = exported(tmp_path, model, size)
    done = stdet("quantize", str(path), "--max-drop", "100", "--json")
    assert done.returncode == 0, done.stderr
    stage = json.loads(done.stdout)["stages"]["quantize"]
    int8 = Path(stage["path"])
    assert [p.name for p in int8.parent.iterdir()] == [int8.name] == ["model_qdq_int8.onnx"]
    assert {part["part"] for part in stage["drop"]["parts"]} == parts
    assert stage["drop"]["worst"].keys() >= {"output", "part", "layer"}
    stored = {p.key: p.value for p in onnx.load(int8).metadata_props}
    assert json.loads(stored["stdet.accuracy"])["within_budget"] is True
    record = json.loads(stored["stdet.quantization"])
    assert {c["name"] for c in record["calibration"]["checks"]} >= {"size", "overlap", "preprocessing"}
    assert len(record["calibration"]["files"]) == record["calibration"]["images"] == 6
    assert all(len(digest) == 64 for digest in record["calibration"]["files"].values())
    report = json.loads((tmp_path / "run" / "reports" / "quantization_drop.json").read_text())
    assert report["points"] == stage["drop"]["points"]


@pytest.mark.usefixtures("one_tensor")
def test_beyond_the_budget_the_command_fails_and_the_file_says_so(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained model scores nothing, so the comparison itself is made to find a loss."""
    from stdet import api
    from stdet.errors import Rejected
    from stdet.evaluation.drop import DropReport
    from stdet.interfaces.reporter import SilentReporter
    from stdet.quantizing import judge

    real = judge.compare_forms

    def worse(*args: Any) -> DropReport:
        import dataclasses

        report = real(*args)
        found = {"AP": 0.5, "AP50": 0.9, "AP75": 0.5}
        return dataclasses.replace(
            report, floating=found, quantized={k: v - 0.02 for k, v in found.items()}, points=dict.fromkeys(found, 2.0)
        )

    monkeypatch.setattr(judge, "compare_forms", worse)
    overrides = ["quantization.max_drop=1.5", f"hydra.run.dir={tmp_path / 'run'}"]
    with pytest.raises(Rejected, match=r"loses 2\.00 points of AP50 .*0\.9000 to 0\.8800.*max_drop is 1\.5") as caught:
        api.run(api.load_config(config, overrides), SilentReporter())
    folder = tmp_path / "run" / "quantized_models"
    assert [p.name for p in folder.iterdir()] == ["model_qdq_int8_over_budget.onnx"]
    stored = {p.key: p.value for p in onnx.load(next(folder.iterdir())).metadata_props}
    assert json.loads(stored["stdet.accuracy"])["within_budget"] is False
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["stages"]["quantize"]["drop"]["within_budget"] is False
    assert any("points lost" in table.columns for table in caught.value.result.tables)
    assert caught.value.result.document == document


@pytest.mark.usefixtures("one_tensor")
def test_a_kill_before_the_verdict_leaves_a_name_that_says_so(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stdet import api
    from stdet.interfaces.reporter import SilentReporter
    from stdet.quantizing import judge

    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(judge, "compare_forms", stop)
    overrides = ["quantization.max_drop=1", f"hydra.run.dir={tmp_path / 'run'}"]
    with pytest.raises(KeyboardInterrupt):
        api.run(api.load_config(config, overrides), SilentReporter())
    assert [p.name for p in (tmp_path / "run" / "quantized_models").iterdir()] == ["model_qdq_int8_unjudged.onnx"]


def test_noise_is_marked_and_its_score_is_questioned(config: Path, tmp_path: Path) -> None:
    notes = run(config, tmp_path, "quantization.random_calibration=3")
    assert any("unfit for accuracy" in note for note in notes)
    int8 = tmp_path / "run" / "quantized_models" / "model_qdq_int8.onnx"
    stored = {p.key: p.value for p in onnx.load(int8).metadata_props}
    assert json.loads(stored["stdet.quantization"])["calibration"]["fit_for_accuracy"] is False
    notes = run(config, tmp_path, f"model.model_path={int8}", "operation_mode=evaluation")
    assert any("calibrated on noise" in note for note in notes)


def test_another_tools_file_is_normalised_or_rejected_with_a_table(config: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(np.random.default_rng(0).integers(0, 256, (2, 1, 3, 64, 96)).astype(np.float32))

        def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
            image = next(self.images, None)
            return None if image is None else {"input": image}

    mode = ["quantization.operating_mode=normalise", f"hydra.run.dir={tmp_path / 'run'}"]
    for per_channel, code in ((True, 0), (False, 2)):
        foreign = tmp_path / f"foreign_{code}.onnx"
        kind = QuantType.QInt8 if per_channel else QuantType.QUInt8
        quantize_static(
            config.parent / "model.onnx", foreign, Reader(), per_channel=per_channel, activation_type=QuantType.QUInt8,
            weight_type=kind,
        )  # fmt: skip
        with pytest.raises(QuantizationError, match="already quantized") as caught:
            run(config, tmp_path, f"model.model_path={foreign}")
        assert "operating_mode: normalise" in caught.value.hint
        done = stdet("quantize", str(config), f"model.model_path={foreign}", *mode, *(["--json"] if code else []))
        assert done.returncode == code, done.stderr
        if code:
            told = json.loads(done.stdout)
            assert "findings stay" in told["error"]["message"]
            assert told["stages"]["quantize"]["left"]
        else:
            assert "activation-type\terror" in done.stdout
        written = list(tmp_path.glob(f"run*/quantized_models/foreign_{code}_qdq_int8.onnx"))
        assert bool(written) == (not code)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["preprocessing.color_mode=rgb"], "makes color_mode rgb, but the file was made with bgr"),
        (["quantization.onnx_extra_options.activations_tensor_override=[[inputt, {quant_type: Int8}]]"], "no `inputt`"),
        (["quantization.operating_mode=full_auto"], "full_auto searches under this budget"),
        (["quantization.random_calibration=2", "quantization.max_drop=1"], "noise can't be judged"),
        (["operation_mode=chain_eqe", "quantization.operating_mode=normalise"], "has no place in chain_eqe"),
        (["quantization.operating_mode=normalise", "quantization.max_drop=1"], "no float model"),
        (["quantization.operating_mode=guess"], "default, inspection, full_auto, normalise"),
        (["quantization.iterative_quant_parameters.accuracy_tolerance=1"], "max_drop"),
    ],
)
def test_what_cannot_be_done_is_said_and_no_file_is_left(
    config: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    from stdet import api
    from stdet.errors import StdetError
    from stdet.interfaces.reporter import SilentReporter

    with pytest.raises(StdetError) as caught:
        api.run(api.load_config(config, [*overrides, f"hydra.run.dir={tmp_path / 'run'}"]), SilentReporter())
    assert message in str(caught.value)
    assert not list(tmp_path.rglob("*.onnx"))
    assert not list(tmp_path.rglob("*.part"))


def test_a_budget_needs_evaluation_images(config: Path, tmp_path: Path) -> None:
    from stdet import api
    from stdet.errors import ConfigError

    overrides = ["dataset.dataset_name=coco", "dataset.quantization_path=pictures", "quantization.max_drop=1"]
    text = config.read_text().replace("  num_images: 24\n", "").replace("  image_size: 64\n", "")
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match="val_images_path"):
        api.load_config(tmp_path / "c.yaml", overrides)
    assert api.load_config(tmp_path / "c.yaml", overrides[:2])
