"""Each distribution as a wheel: what lies in it, and what it can do alone with core and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

PACKAGES = {
    "stdet-core": "stdet",
    "stdet-cli": "stdet_cli",
    "stdet-datasets": "stdet_datasets",
    "stdet-deploy-stm32": "stdet_deploy_stm32",
    "stdet-models-ssd": "stdet_models_ssd",
    "stdet-models-yolod": "stdet_models_yolod",
}
PLUGINS = [name for name in PACKAGES if name not in ("stdet-core", "stdet-cli")]


def test_every_distribution_is_built(wheels: Any) -> None:
    assert set(wheels) == set(PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_wheel_holds_the_licence_the_typing_mark_and_every_file_of_the_sources(wheels: Any, name: str) -> None:
    found = set(wheels[name].names())
    root = Path(__file__).parents[2]
    source = next(path for path in root.glob(f"*/**/src/{PACKAGES[name]}") if path.is_dir())
    files = {path.relative_to(source.parent).as_posix() for path in source.rglob("*") if path.is_file()}
    assert {f for f in files if "__pycache__" not in f} <= found
    assert f"{PACKAGES[name]}/py.typed" in found
    licence = next(path for path in found if path.endswith(".dist-info/licenses/LICENSE"))
    assert wheels[name].path.exists()
    assert wheels[name].metadata()["License-Expression"] == "Apache-2.0"
    assert (source.parents[1] / "LICENSE").read_text() == (root / "LICENSE").read_text()
    assert licence


@pytest.mark.parametrize("name", PLUGINS)
def test_a_package_alone_is_loaded_and_lists_what_it_brings(install: Any, name: str) -> None:
    alone = install("stdet-core", "stdet-cli", name)
    states = json.loads(alone.stdet("plugins", "--json").stdout)
    assert {state["distribution"]: state["state"] for state in states} == {"stdet-core": "loaded", name: "loaded"}
    listed = [
        line
        for kind in ("models", "datasets", "targets")
        for line in json.loads(alone.stdet("list", kind, "--json").stdout)
    ]
    assert {line["state"] for line in listed if line["distribution"] == name} == {"available"}
    others = {line["distribution"]: line["reason"] for line in listed if line["state"] == "not installed"}
    assert others == {other: f"pip install {other}" for other in PLUGINS if other != name}


IMPORT_ALL = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
"""


@pytest.mark.parametrize("name", PLUGINS)
def test_every_module_can_be_imported_with_what_is_declared(install: Any, name: str) -> None:
    modules = ["stdet", "stdet_cli", PACKAGES[name]]
    done = install("stdet-core", "stdet-cli", name).execute(IMPORT_ALL, *modules)
    assert done.returncode == 0, done.stderr


TRAINING = """\
operation_mode: training
model: { model_name: st_yolodv2milli_actrelu_pt, input_shape: [3, 64, 64] }
dataset: { dataset_name: synthetic, class_names: [disc], num_images: 8, image_size: 64, num_workers: 0 }
training: { batch_size: 4, epochs: 1, no_aug_epochs: 0, device: cpu }
hydra: { run: { dir: run } }
"""


def test_a_training_needs_no_library_but_onnxruntime_beyond_what_core_declares(install: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(TRAINING)
    packages = ("stdet-cli", "stdet-datasets", "stdet-models-yolod")
    refused = install("stdet-core", *packages).stdet("train", "c.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "hint: pip install 'stdet-core[onnxruntime]'" in refused.stderr
    assert not (tmp_path / "run").exists()
    trained = install("stdet-core[onnxruntime]", *packages).stdet("train", "c.yaml", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["stages"]["train"]["curves"] is None
    assert all(f"pip install 'stdet-core[{extra}]'" in trained.stderr for extra in ("tensorboard", "plots"))


def test_the_full_install_of_the_command_brings_all_of_stdet(install: Any) -> None:
    done = install("stdet-cli[all]").stdet("plugins", "--json")
    assert {state["distribution"] for state in json.loads(done.stdout)} == set(PACKAGES) - {"stdet-cli"}
    have = "from stdet.extras import EXTRAS, has; print([name for name in EXTRAS if not has(name)])"
    assert install("stdet-cli[all]").execute(have).stdout == "['pytest']\n"  # for authors of plugins alone
