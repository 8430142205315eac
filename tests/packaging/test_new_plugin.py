"""`stdet plugins new`: every kind's package keeps its contract as it is written, in an environment without the repository,
and one of them is trained, quantized and benched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

KINDS = ("model", "dataset", "transform", "scheduler", "target", "board")
CONFIG = """\
operation_mode: chain_tqeb
model: { model_name: acme_model, input_shape: [3, 64, 64] }
dataset: { dataset_name: synthetic, class_names: [disc], num_images: 16, image_size: 64, num_workers: 0,
  quantization_split: 1.0 }
training: { epochs: 1, batch_size: 8 }
quantization: { allow_overlap: True }
general: { logger: null }
hydra: { run: { dir: run } }
"""


@pytest.fixture(scope="module")
def place(install: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """An environment with a new package of every kind, installed from wheels, and the folder with their sources."""
    environment = install("stdet-core[testing]", "stdet-cli", "stdet-datasets", "stdet-deploy-stm32")
    folder = tmp_path_factory.mktemp("new")
    for kind in KINDS:
        done = environment.stdet("plugins", "new", f"acme-{kind}", "--kind", kind, "-o", folder)
        assert done.returncode == 0, done.stderr
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "wheels")]
        subprocess.run(build, cwd=folder / f"acme-{kind}", check=True, capture_output=True)
    pip = [sys.executable, "-m", "pip", "--python", str(environment.python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, *map(str, (folder / "wheels").glob("*.whl"))], check=True)
    return environment, folder


def test_their_own_tests_pass(place: tuple[Any, Path]) -> None:
    environment, folder = place
    tests = [f"acme-{kind}/tests" for kind in KINDS]
    done = environment.execute(
        "import sys, pytest; sys.exit(pytest.main(['-q', '--import-mode=importlib', *sys.argv[1:]]))",
        *tests,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout


def test_nothing_is_wrong_with_what_they_register(place: tuple[Any, Path]) -> None:
    environment, _ = place
    for name in ("acme-model", "acme-board"):
        done = environment.stdet("plugins", "check", name, "--json")
        assert done.returncode == 0, done.stdout
        assert {finding["verdict"] for finding in json.loads(done.stdout)} == {"ok"}


def test_the_model_is_trained_quantized_and_benched(place: tuple[Any, Path]) -> None:
    environment, folder = place
    (folder / "c.yaml").write_text(CONFIG)
    done = environment.stdet("run", "c.yaml", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    stages = json.loads((folder / "run" / "run.json").read_text())["stages"]
    assert {"train", "quantize", "bench"} <= stages.keys()


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("Acme_Net", (), "is no name"),
        ("stdet-core", (), "is no name"),
        ("acme-model", (), "is there already"),
        ("acme-new", ("--kind", "models"), "is not one of"),
    ],
)
def test_a_name_that_can_not_be_used_is_refused(
    place: tuple[Any, Path], name: str, more: tuple[str, ...], message: str
) -> None:
    environment, folder = place
    done = environment.stdet("plugins", "new", name, *(more or ("--kind", "model")), "-o", folder)
    assert done.returncode == 2
    assert message in done.stderr
