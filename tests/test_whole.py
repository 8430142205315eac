"""What needs more than one package: layers, contracts of all that is registered, the chain, wheels that stand alone."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = {
    "stdet-core": "packages/core",
    "stdet-models-ssd": "packages/models-ssd",
    "stdet-models-yolod": "packages/models-yolod",
    "stdet-datasets": "packages/datasets",
    "stdet-deploy-stm32": "packages/deploy-stm32",
    "stdet-cli": "cli",
}


def test_the_layers_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(lint)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_registered_component_has_a_contract_test() -> None:
    from stdet.plugins.loader import load_plugins
    from stdet.registry import KINDS

    tested: set[str] = set()
    for path in [*ROOT.glob("packages/*/tests/**/test_*.py"), *ROOT.glob("tests/test_*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(getattr(b, "id", "").endswith("Contract") for b in node.bases):
                for statement in node.body:
                    targets = (
                        statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
                    )
                    if any(getattr(t, "id", "") == "name" for t in targets):
                        tested.add(str(getattr(statement.value, "value", "")))  # type: ignore[attr-defined]
    catalogue, states = load_plugins()
    assert {s.state for s in states} == {"loaded"}
    registered = {e.name for kind in KINDS if kind != "targets" for e in catalogue.entries(kind)}
    assert registered <= tested, registered - tested
    assert "stm32" in tested  # one class goes through all boards


CHAIN = """\
operation_mode: chain_tqeb
general: {{ saved_models_dir: models }}
model: {{ model_name: st_yolodv2milli_actrelu_pt, input_shape: [3, 64, 96] }}
dataset:
  dataset_name: synthetic
  class_names: [disc, square]
  num_images: 12
  image_size: 64
  num_workers: 1
  quantization_split: 0.5
  enable_mixup: True
  multiscale_range: 1
training: {{ batch_size: 4, epochs: 2, no_aug_epochs: 1, accumulate: 2, save_history_ckpt: True, device: cpu }}
benchmarking: {{ board: STM32N6570-DK }}
quantization: {{ quantization_input_type: uint8 }}
mlflow: {{ uri: {out}/mlruns }}
hydra: {{ run: {{ dir: {out}/run }} }}
"""


def test_the_whole_chain_runs_and_every_number_can_be_traced(tmp_path: Path) -> None:
    import onnx

    from stdet import api
    from stdet.artifacts import sha256_file
    from stdet.export.metadata import read_provenance, read_spec
    from stdet.interfaces.reporter import SilentReporter

    notes: list[str] = []

    class Listening(SilentReporter):
        def note(self, message: str) -> None:
            notes.append(message)

    (tmp_path / "c.yaml").write_text(CHAIN.format(out=tmp_path))
    result = api.run(api.load_config(tmp_path / "c.yaml"), Listening())
    stages = result.document["stages"]
    assert list(stages) == ["train", "export", "evaluate_float", "quantize", "evaluate_int8", "bench"]
    models = tmp_path / "run" / "models"
    assert {p.name for p in models.glob("*.pth")} == {
        "best_ckpt.pth",
        "latest_ckpt.pth",
        "epoch_1_ckpt.pth",
        "epoch_2_ckpt.pth",
    }
    assert list((models / "tensorboard").iterdir())
    float_onnx, int8_onnx = models / "st_yolodv2milli_actrelu_pt.onnx", Path(stages["quantize"]["path"])
    assert int8_onnx.name == "st_yolodv2milli_actrelu_pt_qdq_int8.onnx"
    assert read_provenance(float_onnx)["checkpoint_sha256"] == sha256_file(models / "best_ckpt.pth")
    assert stages["evaluate_float"]["model"]["sha256"] == sha256_file(float_onnx)
    assert stages["evaluate_int8"]["model"]["sha256"] == sha256_file(int8_onnx)
    assert read_spec(int8_onnx) == read_spec(float_onnx)
    graph = onnx.load(int8_onnx).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert {(b["model"], b["backend"]) for b in stages["bench"]} == {
        (path.name, backend) for path in (float_onnx, int8_onnx) for backend in ("host", "estimate")
    }
    counts = {b["macc"] for b in stages["bench"] if b["backend"] == "estimate"}
    assert len(counts) == 1  # the float file and its int8 form are the same work
    assert [row[0] for row in result.tables[-1].rows] == ["float", "int8"]  # after that of the calibration images
    assert any("MLflow" in note for note in notes) or importlib.util.find_spec("mlflow")
    predicted = api.run(
        api.load_config(
            tmp_path / "run" / "config.yaml",
            [
                f"model.model_path={int8_onnx}",
                f"dataset.prediction_path={_images(tmp_path)}",
                "postprocessing.confidence_thresh=0",
            ],
            "prediction",
        ),
        SilentReporter(),
    )
    document = json.loads((predicted.run_dir / "predictions" / "predictions.json").read_text())
    assert len(document["images"]) == 3
    assert all(Path(entry["picture"]).exists() for entry in document["images"])


def test_the_training_options_of_a_family_reach_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stdet import api
    from stdet.errors import ModelError
    from stdet.interfaces.reporter import SilentReporter
    from stdet_models_ssd.detector import Ssd

    def stop(self: Ssd, options: object) -> None:
        raise ModelError(f"got {options}")

    monkeypatch.setattr(Ssd, "use_training_options", stop)
    text = CHAIN.format(out=tmp_path).replace("st_yolodv2milli_actrelu_pt", "ssdlite_mobilenetv3small_pt")
    text = text.replace("[3, 64, 96]", "[3, 96, 96]").replace("  enable_mixup: True\n  multiscale_range: 1\n", "")
    text = text.replace("no_aug_epochs: 1", "match_threshold: 0.375")
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ModelError, match=r"match_threshold=0\.375"):
        api.run(api.load_config(tmp_path / "c.yaml"), SilentReporter())


def _images(tmp_path: Path) -> Path:
    from stdet.interfaces.dataset import DatasetRequest
    from stdet_datasets.options import SyntheticOptions
    from stdet_datasets.synthetic import SyntheticDataset, write_coco

    options = SyntheticOptions(num_images=12, image_size=64)
    write_coco(SyntheticDataset(DatasetRequest("test", options=options)), tmp_path, "pictures")
    return tmp_path / "pictures"


def test_a_full_disk_while_saving_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    """The file size limit of the process stands in for a full disk: writes beyond it fail in the same way."""
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import stdet.engine.trainer as trainer\n"
        "finish = trainer.Trainer._finish_epoch\n"
        "def limited(self, *about):\n"
        "    if self.epoch == 1: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "    finish(self, *about)\n"
        "trainer.Trainer._finish_epoch = limited\n"
        "from stdet_cli.main import app\n"
        "sys.argv = ['stdet', 'train', *sys.argv[1:]]\n"
        "app()\n"
    )
    (tmp_path / "c.yaml").write_text(
        CHAIN.format(out=tmp_path).replace("epochs: 2", "epochs: 3").replace("logger", "logger")
    )
    arguments = [str(tmp_path / "c.yaml"), "general.logger=None", "training.save_history_ckpt=False"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    from stdet.engine.checkpoint import read_checkpoint

    assert read_checkpoint(tmp_path / "run" / "models" / "latest_ckpt.pth")["epoch"] == 1
    assert not list((tmp_path / "run" / "models").glob(".*.part"))


def closure(distribution: str) -> set[str]:
    """The distributions that a package may use: what it declares, and what those declare."""
    found: set[str] = set()
    waiting = [distribution]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # only needed on other platforms
        found.add(name)
        for text in requires:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


ALONE = """
import importlib, json, pkgutil, sys
wheel, package, undeclared = sys.argv[1], sys.argv[2], set(json.loads(sys.argv[3]))
class Fence:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        # Only our own files are held to the declarations; libraries probe for optional ones as they like.
        if frame.f_code.co_filename.startswith(wheel) and name.partition(".")[0] in undeclared:
            raise ModuleNotFoundError(f"{name} is not a declared dependency", name=name)
        return None
sys.meta_path.insert(0, Fence())
sys.path[:0] = [wheel]
module = importlib.import_module(package)
assert module.__file__.startswith(wheel), module.__file__
for info in pkgutil.walk_packages(module.__path__, package + "."):
    if not info.name.endswith(("__main__", "testing.contracts")):
        importlib.import_module(info.name)
print("alone")
"""


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_each_package_works_from_its_wheel_with_what_it_declares(distribution: str, tmp_path: Path) -> None:
    source = ROOT / DISTRIBUTIONS[distribution]
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    package = next(p.name for p in (source / "src").iterdir() if (p / "__init__.py").exists())
    names = closure(distribution)
    provided = importlib.metadata.packages_distributions()
    allowed = {
        top for top, owners in provided.items() if any(re.sub(r"[-_.]+", "-", o).lower() in names for o in owners)
    }
    own = {
        d: next(p.name for p in (ROOT / f / "src").iterdir() if (p / "__init__.py").exists())
        for d, f in DISTRIBUTIONS.items()
    }
    allowed = (allowed - set(own.values())) | {own[d] for d in DISTRIBUTIONS if d in names}
    done = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            ALONE,
            str(unpacked),
            package,
            json.dumps(sorted({*provided, *own.values()} - allowed)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "alone", done.stderr[-1500:]


def test_no_distribution_pins_core_exactly() -> None:
    for distribution in DISTRIBUTIONS:
        for text in importlib.metadata.requires(distribution) or []:
            if Requirement(text).name == "stdet-core":
                assert str(Requirement(text).specifier) == "<0.2,>=0.1"
