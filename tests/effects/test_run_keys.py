"""What the keys of quantization, scoring and benchmarking do, seen in what a run leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from PIL import Image

from stdet import api
from stdet.artifacts import ModelFile
from stdet.build import Builder
from stdet.config import absent_files
from stdet.errors import ArtifactError, Rejected, StdetError
from stdet.evaluation import by_pycocotools
from stdet.export.onnx import export_onnx
from stdet.interfaces.reporter import SilentReporter
from stdet.quantizing import judge
from stdet.quantizing.choice import choose
from stdet_deploy_stm32.target import Stm32Target

Made = Callable[..., Builder]


@pytest.fixture
def model(made: Made, tmp_path: Path) -> Path:
    """An untrained model of ours, as ONNX."""
    builder = made()
    torch.manual_seed(0)
    export_onnx(builder.detector(builder.spec(("disc", "square"))), tmp_path / "model.onnx", provenance={})
    return tmp_path / "model.onnx"


def run(builder: Builder) -> tuple[Path, dict[str, Any]]:
    result = api.run(builder.config, SilentReporter())
    return result.run_dir, result.document["stages"]


def test_the_int8_file_is_in_the_folder_and_of_the_types_asked_for(made: Made, model: Path) -> None:
    given = [f"model.model_path={model}", "quantization.random_calibration=1"]
    given += ["quantization.onnx_quant_parameters.calibrate_method=MinMax"]
    folder, stages = run(made(*given, mode="quantization"))
    path = Path(stages["quantize"]["path"])
    assert path.parent == folder / "quantized_models"
    assert (kinds(path, "_quantized"), kinds(path, "_zero_point")) == ({"INT8", "INT32"}, {"INT8", "INT32"})
    given += ["quantization.export_dir=small/files", "quantization.target_opset=21"]
    given += [f"quantization.onnx_quant_parameters.{key}" for key in ("weightType=Int4", "activType=Int16")]
    folder, stages = run(made(*given, mode="quantization"))
    path = Path(stages["quantize"]["path"])
    assert path.parent == folder / "small" / "files"
    assert (kinds(path, "_quantized"), kinds(path, "_zero_point")) == ({"INT4", "INT32"}, {"INT4", "INT16", "INT32"})


def kinds(path: Path, what: str) -> set[str]:
    """Types of the stored numbers that quantizing named so."""
    found = [
        tensor for tensor in onnx.load(path).graph.initializer if what in tensor.name and "scale" not in tensor.name
    ]
    return {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in found}


def test_the_share_and_the_folder_of_calibration_images_are_those_of_the_config(made: Made, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for number in range(4):
        Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / "mine" / f"{number}.png")
    builder = made("dataset.quantization_split=0.25", f"dataset.quantization_path={tmp_path / 'mine'}")
    spec = builder.spec(("disc", "square"))
    chosen = choose(builder, spec.class_names, spec)
    assert len(chosen) == 1
    assert chosen.annotation(0).path in (tmp_path / "mine").iterdir()
    assert len(choose(made("dataset.quantization_split=0.5"), spec.class_names, spec)) == 4  # of eight training images


@pytest.mark.parametrize("metric", ["AP", "AP50"])
def test_the_budget_is_for_the_metric_asked_for(made: Made, model: Path, metric: str) -> None:
    builder = made(
        f"model.model_path={model}",
        "dataset.num_images=16",
        f"quantization.max_drop_metric={metric}",
        mode="quantization",
    )
    spec = builder.spec(("disc", "square"))
    images = builder.dataset("val", spec.class_names)
    evaluator = judge.make_evaluator(builder, spec, images, None, SilentReporter())
    assert evaluator.metric == metric
    file = ModelFile.at(model)
    assert judge.compare_forms(builder, spec, file, file, images, SilentReporter()).metric == metric


def test_the_overlap_of_the_config_has_a_precision_of_its_own(made: Made, model: Path) -> None:
    given = [f"model.model_path={model}", "dataset.num_images=32", "postprocessing.plot_metrics=False"]
    _, stages = run(made(*given, "postprocessing.IoU_eval_thresh=0.35", mode="evaluation"))
    assert "AP@0.35" in stages["evaluate_float"]["metrics"]
    _, stages = run(made(*given, mode="evaluation"))
    assert not [name for name in stages["evaluate_float"]["metrics"] if "@" in name]


def test_the_scorer_of_the_config_scores_and_the_report_names_it(
    made: Made, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [f"model.model_path={model}", "dataset.num_images=8", "postprocessing.plot_metrics=False"]
    asked: list[int] = []
    real = by_pycocotools.judge
    monkeypatch.setattr(by_pycocotools, "judge", lambda dataset, *more: asked.append(1) or real(dataset, *more))
    found = {}
    for scorer in ("stdet", "pycocotools"):
        folder, _ = run(made(*given, f"evaluation.scorer={scorer}", mode="evaluation"))
        found[scorer] = json.loads((folder / "reports" / "evaluate_float.json").read_text())
        assert found[scorer]["scorer"] == scorer
    assert asked == [1]
    assert found["stdet"]["metrics"] == pytest.approx(found["pycocotools"]["metrics"], abs=1e-9)


def test_an_ap_below_the_least_one_fails_and_leaves_all_files(made: Made, model: Path) -> None:
    given = [f"model.model_path={model}", "dataset.num_images=8"]
    folder, _ = run(made(*given, "evaluation.min_ap=0", mode="evaluation"))
    assert "The worst images" in (folder / "report.html").read_text()
    with pytest.raises(Rejected, match=r"evaluation\.min_ap is 0\.9") as told:
        run(made(*given, "evaluation.min_ap=0.9", "postprocessing.plot_metrics=False", mode="evaluation"))
    folder = told.value.result.run_dir
    assert (folder / "reports" / "evaluate_float.json").is_file()
    assert "The worst images" not in (folder / "report.html").read_text()


def test_the_baseline_of_the_config_is_compared_with(made: Made, model: Path, tmp_path: Path) -> None:
    given = [f"model.model_path={model}", "postprocessing.plot_metrics=False"]
    folder, _ = run(made(*given, mode="evaluation"))
    before = folder / "reports" / "evaluate_float.json"
    result = api.run(made(*given, f"evaluation.baseline={before}", mode="evaluation").config, SilentReporter())
    (table,) = (table for table in result.tables if "baseline" in table.title)
    assert [row[3:] for row in table.rows if row[0] == "AP50"] == [["+0.00", "+0.00 to +0.00", "within chance"]]
    assert "the baseline" in (result.run_dir / "report.html").read_text()
    assert "draws" not in result.document["stages"]["evaluate_float"]
    with pytest.raises(ArtifactError, match="other images"):
        run(made(*given, f"evaluation.baseline={before}", "dataset.num_images=40", mode="evaluation"))
    old = json.loads(before.read_text())
    del old["draws"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(ArtifactError, match="how far chance goes"):
        run(made(*given, f"evaluation.baseline={tmp_path / 'old.json'}", mode="evaluation"))


def test_a_baseline_that_can_not_be_compared_with_is_told_before_the_first_epoch(made: Made, tmp_path: Path) -> None:
    given = made(f"evaluation.baseline={tmp_path / 'gone.json'}", mode="chain_tqe")
    assert ("evaluation.baseline", tmp_path / "gone.json") in absent_files(given.config)
    with pytest.raises(ArtifactError, match=r"gone\.json"):
        run(given)
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize("key", ["memory_pool", "images"])
def test_a_file_of_the_bench_that_is_missing_is_told_before_the_first_epoch(
    made: Made, tmp_path: Path, key: str
) -> None:
    given = [f"benchmarking.{key}={tmp_path / 'gone'}"]
    given += ["benchmarking.backends=[emulator]"] if key == "images" else []
    with pytest.raises(StdetError, match="gone"):
        run(made(*given, "quantization.random_calibration=1", mode="chain_tqeb"))
    assert not list(tmp_path.rglob("*.pth"))


POOL = {
    "name": "AXISRAM3", "fname": "AXISRAM3", "offset": {"value": "0x34200000", "magnitude": "BYTES"},
    "size": {"value": "448", "magnitude": "KBYTES"},
    "prop": {"rights": "ACC_WRITE", "byteWidth": 8, "freqRatio": 1.25},
}  # fmt: skip


def test_board_backends_and_pools_of_a_bench_are_those_of_the_config(made: Made, model: Path, tmp_path: Path) -> None:
    given = [f"model.model_path={model}", "benchmarking.board=STM32N6570-DK", "benchmarking.backends=[estimate]"]
    _, stages = run(made(*given, mode="benchmarking"))
    assert [(row["backend"], row["device"]) for row in stages["bench"]] == [("estimate", "STM32N6570-DK")]
    _, stages = run(made(given[0], mode="benchmarking"))
    assert {row["backend"] for row in stages["bench"]} == {"host", "estimate"}
    (tmp_path / "small.mpool").write_text(json.dumps({"memory": {"mempools": [POOL]}}))
    pools = [f"benchmarking.memory_pool={tmp_path / 'small.mpool'}"]
    usual, small = (made(*given, *more, mode="benchmarking").target() for more in ([], pools))
    assert isinstance(usual, Stm32Target)
    assert isinstance(small, Stm32Target)
    assert usual.board.ram_kib > small.board.ram_kib == 448
