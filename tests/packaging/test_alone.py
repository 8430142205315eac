"""What a team can do with one package beside core and the command, each in a clean environment; what it can't do is
answered with the command that installs what is missing."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MODELS = {"stdet-models-ssd": "ssdlite_mobilenetv3small_pt", "stdet-models-yolod": "st_yolodv2milli_actrelu_pt"}
RUNNING = "stdet-core[onnxruntime]"

CONFIG = """\
operation_mode: prediction
model: { model_name: NAME, model_path: weights.pth, input_shape: [3, 96, 96] }
dataset: { class_names: [disc, square], prediction_path: images }
hydra: { run: { dir: run } }
"""

MAKE = """
import sys
import cv2, numpy, torch
from pathlib import Path
from stdet.plugins.loader import load_plugins
catalogue, _ = load_plugins()
spec = catalogue.family(sys.argv[1]).spec(sys.argv[1], ("disc", "square"))
torch.manual_seed(0)
torch.save(catalogue.build("models", sys.argv[1], spec).state_dict(), "weights.pth")
Path("images").mkdir()
noise = numpy.random.default_rng(0)
for n in range(4):
    cv2.imwrite(f"images/{n}.png", noise.integers(0, 256, (80, 120, 3), dtype=numpy.uint8))
"""
"""Weights and images for a configuration: what a team would have."""


@dataclass(frozen=True)
class Place:
    """A folder with `c.yaml`, weights, their ONNX and images, and an environment."""

    folder: Path
    environment: Any

    @property
    def onnx(self) -> Path:
        """The exported model."""
        return next((self.folder / "exported").rglob("*.onnx"))

    def stdet(self, *arguments: str) -> Any:
        done = self.environment.stdet(*arguments, cwd=self.folder)
        assert "Traceback" not in done.stderr, done.stderr
        return done


@pytest.fixture(scope="module")
def placed(install: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Place]:
    """Makes the place of a model package, once."""

    @functools.cache
    def make(package: str) -> Place:
        folder, environment = tmp_path_factory.mktemp("place"), install(RUNNING, "stdet-cli", package)
        (folder / "c.yaml").write_text(CONFIG.replace("NAME", MODELS[package]))
        done = environment.execute(MAKE, MODELS[package], cwd=folder)
        assert done.returncode == 0, done.stderr
        done = environment.stdet("export", "c.yaml", "hydra.run.dir=exported", cwd=folder)
        assert done.returncode == 0, done.stderr
        return Place(folder, environment)

    return make


@pytest.fixture(params=MODELS)
def place(request: pytest.FixtureRequest, placed: Callable[[str], Place]) -> Place:
    """With one model package."""
    return placed(request.param)


@pytest.fixture
def deploy(install: Any, placed: Callable[[str], Place]) -> Place:
    """With the deploy package, where a model package has exported its ONNX."""
    return Place(placed("stdet-models-yolod").folder, install("stdet-core", "stdet-cli", "stdet-deploy-stm32"))


def test_a_model_package_checks_and_exports(place: Place) -> None:
    assert place.stdet("config", "check", "c.yaml").returncode == 0
    assert place.onnx.stat().st_size > 100_000


def test_a_model_package_predicts_from_a_checkpoint_and_from_its_onnx(place: Place) -> None:
    for model in ("weights.pth", str(place.onnx)):
        done = place.stdet("predict", "c.yaml", f"model.model_path={model}", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["stages"]["predict"]["images"] == 4


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        (("train",), "stdet-datasets"),
        (("evaluate",), "stdet-datasets"),
        (("quantize", "dataset.quantization_path=images"), "stdet-deploy-stm32"),
        (("bench",), "stdet-deploy-stm32"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_a_model_package_can_not_do_alone_says_how_to_get_it(
    place: Place, command: tuple[str, ...], missing: str
) -> None:
    done = place.stdet(command[0], "c.yaml", *command[1:])
    assert done.returncode == 2
    assert f"pip install {missing}" in done.stderr


def test_the_deploy_package_quantizes_and_benches_an_onnx_from_a_folder_of_images(deploy: Place) -> None:
    (deploy.folder / "deploy.yaml").write_text(
        f"operation_mode: chain_qb\nmodel: {{ model_path: {deploy.onnx} }}\n"
        "dataset: { quantization_path: images }\nbenchmarking: { board: stm32n6570-dk }\nhydra: { run: { dir: deploy } }\n"
    )
    quantized = deploy.stdet("quantize", "deploy.yaml", "--json")
    assert quantized.returncode == 0, quantized.stderr
    int8 = json.loads(quantized.stdout)["stages"]["quantize"]["path"]
    assert (deploy.folder / int8).stat().st_size < deploy.onnx.stat().st_size / 2
    benched = deploy.stdet("bench", "deploy.yaml", f"model.model_path={int8}", "--json")
    assert benched.returncode == 0, benched.stderr
    assert {bench["backend"] for bench in json.loads(benched.stdout)["stages"]["bench"]} == {"host", "estimate"}


def test_the_deploy_package_says_what_scoring_needs(deploy: Place) -> None:
    (deploy.folder / "score.yaml").write_text(
        f"operation_mode: evaluation\nmodel: {{ model_path: {deploy.onnx} }}\n"
        "dataset: { val_images_path: images, val_annotations_path: a.json }\n"
    )
    done = deploy.stdet("evaluate", "score.yaml")
    assert done.returncode == 2
    assert "pip install stdet-datasets" in done.stderr


def test_the_datasets_package_makes_and_checks_a_set(install: Any, tmp_path: Path) -> None:
    alone = Place(tmp_path, install("stdet-core", "stdet-cli", "stdet-datasets"))
    made = alone.stdet("data", "synth", "-o", "made", "dataset.num_images=8", "dataset.image_size=64")
    assert made.returncode == 0, made.stderr
    files = {path.relative_to(tmp_path) for path in (tmp_path / "made").rglob("*.json")}
    train = next(path for path in files if "train" in path.name)
    images = next((tmp_path / "made").rglob("train*.png")).parent
    checked = alone.stdet(
        "data", "check", "--format", "coco", "--images", str(images), "--annotations", str(train), "--json"
    )
    assert json.loads(checked.stdout)["counts"]["error"] == 0, checked.stdout


def test_core_and_the_command_alone_name_the_package_of_each_thing_a_config_uses(install: Any, tmp_path: Path) -> None:
    alone = Place(tmp_path, install("stdet-core", "stdet-cli"))
    (tmp_path / "c.yaml").write_text(
        "operation_mode: chain_tqeb\nmodel: { model_name: ssd_mobilenetv2_pt }\ndataset: { dataset_name: voc }\n"
        "benchmarking: { board: nucleo-h743zi2 }\n"
    )
    done = alone.stdet("config", "check", "c.yaml")
    assert done.returncode == 2
    for package in ("stdet-models-ssd", "stdet-datasets", "stdet-deploy-stm32"):
        assert f"pip install {package}" in done.stderr
