"""Somebody else's distribution does all of it by config: nothing in the six packages knows it."""

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
from onnx import numpy_helper

HERE = Path(__file__).parent
TRAINING = """\
general: {logger: None}
model: {model_name: MODEL, input_shape: [3, 64, 64]}
dataset: {dataset_name: acme_stars, augmentation: acme_plain, num_workers: 0, skies: 6}
training: {epochs: 2, batch_size: 3, scheduler: acme_flat, device: cpu, optimizer: {SGD: {learning_rate: 0.02}}}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which acme-stars is installed."""
    folder = tmp_path_factory.mktemp("site")
    info = folder / "acme_stars-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-stars\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[stdet]\nacme = acme_stars.plugin\n")
    path = os.pathsep.join([str(folder), str(HERE), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path}


def stdet(site: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stdet_cli.main", *map(str, arguments)]
    return subprocess.run(command, env=site, capture_output=True, text=True, check=False)


def document(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(site: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both models, trained on the reader's images by the recipe and the schedule."""
    runs = {}
    for model in ("acme_net", "st_yolodv2milli_actrelu_pt"):
        folder = tmp_path_factory.mktemp(model)
        (folder / "c.yaml").write_text(TRAINING.replace("MODEL", model))
        arguments = ("train", folder / "c.yaml", f"hydra.run.dir={folder / 'run'}", "--json")
        runs[model] = document(stdet(site, *arguments))
    return runs


def test_its_plugin_is_loaded_and_its_components_are_listed(site: dict[str, str]) -> None:
    states = {p["distribution"]: p["state"] for p in document(stdet(site, "plugins", "--json"))}
    assert states["acme-stars"] == "loaded"
    for kind, name in (("datasets", "acme_stars"), ("targets", "acme_chip"), ("transforms", "acme_plain")):
        assert name in {c["name"] for c in document(stdet(site, "list", kind, "--json"))}


@pytest.mark.parametrize("model", ["acme_net", "st_yolodv2milli_actrelu_pt"])
def test_its_reader_recipe_and_schedule_serve_its_own_and_a_stock_model(trained: dict[str, Any], model: str) -> None:
    run = Path(trained[model]["run_dir"])
    config = (run / "config.yaml").read_text()
    assert "augmentation: acme_plain" in config
    assert "skies: 6" in config
    history = json.loads(next(run.rglob("history.json")).read_text())["epochs"]
    assert len(history) == 2
    assert Path(trained[model]["stages"]["export"]["path"]).is_file()


def test_a_stock_model_is_fed_what_the_recipe_makes(site: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        TRAINING.replace("MODEL", "ssdlite_mobilenetv3small_pt").replace("64, 64", "96, 96")
    )
    for keys, count in ((("dataset.stars=3",), 3), (("dataset.stars=3", "dataset.keep_stars=False"), 0)):
        where = f"hydra.run.dir={tmp_path / 'run'}"
        made = document(stdet(site, "data", "preview", tmp_path / "c.yaml", *keys, where, "--count", "2", "--json"))
        assert [len(sample["objects"]) for sample in made["samples"]] == [count, count]


def test_its_target_quantizes_and_benches_by_its_own_keys(
    site: dict[str, str], trained: dict[str, Any], tmp_path: Path
) -> None:
    model = trained["acme_net"]["stages"]["export"]["path"]
    config = tmp_path / "c.yaml"
    config.write_text(
        f"operation_mode: chain_qb\nmodel: {{model_path: {model}}}\ndataset: {{dataset_name: acme_stars, num_workers: 0}}\n"
        "quantization: {bits: 2}\nbenchmarking: {board: acme_chip, clock_mhz: 50, cycles_per_weight: 4}\n"
    )
    found = document(stdet(site, "run", config, f"hydra.run.dir={tmp_path / 'run'}", "--json"))["stages"]
    weights = onnx.load(found["quantize"]["path"]).graph.initializer
    assert max(len(np.unique(np.abs(numpy_helper.to_array(t)))) for t in weights if len(t.dims) == 4) <= 2
    report = found["bench"][-1]
    assert report["latency_ms"] == pytest.approx(report["parameters"] * 4 / 50e3)
    assert report["latency_kind"] == "model"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (
            "quantization: {bits: 3}",
            "c.yaml:3: quantization.bits: found 3, which can't be packed; allowed: even numbers",
        ),
        ("benchmarking: {clock: 5}", "c.yaml:3: benchmarking.clock: unknown key"),
        ("benchmarking: {clock: 5}", "did you mean `clock_mhz`"),
        ("benchmarking: {clock_mhz: fast}", "benchmarking.clock_mhz: input should be a valid integer"),
        ("benchmarking: {backends: [cycle]}", "did you mean `cycles`"),
        ("quantization: {quantizer: nncf}", "belongs to the target `"),
    ],
)
def test_its_keys_are_checked_like_all_others(site: dict[str, str], tmp_path: Path, section: str, said: str) -> None:
    config = tmp_path / "c.yaml"
    lines = (
        f"operation_mode: chain_qb\nmodel: {{model_path: a.onnx}}\n{section}\ndataset: {{dataset_name: acme_stars}}\n"
    )
    config.write_text(lines)
    done = stdet(site, "config", "check", config, "benchmarking.board=acme_chip")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_the_schema_describes_its_keys(site: dict[str, str]) -> None:
    schema = document(stdet(site, "config", "schema"))["properties"]
    assert schema["dataset"]["properties"]["stars"]["x-from"] == ["datasets/acme_stars"]
    assert schema["benchmarking"]["properties"]["clock_mhz"]["x-from"] == ["targets/acme_chip"]


def test_it_is_fine_under_strict_type_checking() -> None:
    """Against the sources, as mypy finds them; `tests/packaging` checks a plugin against the installed wheels."""
    root = HERE.parents[1]
    sources = os.pathsep.join(str(p) for p in (*root.glob("packages/*/src"), HERE))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file",
            "",
            "--follow-imports",
            "silent",
            "-p",
            "acme_stars",
        ],
        env=os.environ | {"MYPYPATH": sources},
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,
    )
    assert done.returncode == 0, done.stdout
