"""A model file is all that a command needs; the run folder holds the config that does the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stdet import api
from stdet.artifacts import sha256_file
from stdet.engine.checkpoint import FORMAT
from stdet.interfaces.reporter import SilentReporter
from stdet.plugins.loader import load_plugins
from stdet_cli import session
from stdet_cli.main import app

SSD = "ssdlite_mobilenetv3small_pt"
CLASSES = ("disc", "square")
QUICK = (
    "dataset.num_workers=0",
    "postprocessing.plot_metrics=False",
    "quantization.onnx_quant_parameters.calibrate_method=MinMax",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`own` (a checkpoint without a suffix), `set/` (images with COCO's annotations)."""
    folder = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    catalogue = load_plugins()[0]
    family = catalogue.family(SSD)
    detector = catalogue.build("models", SSD, family.spec(SSD, CLASSES, family.preprocess.with_size(96, 96)))
    torch.save({"format": FORMAT, "spec": detector.spec.to_dict(), "model": detector.state_dict()}, folder / "own")
    keys = ["num_images=4", "image_size=96", "class_names=[disc, square]", "dataset_name=synthetic"]
    config = api.load_data_config(None, [f"dataset.{key}" for key in keys])
    api.write_data(config, SilentReporter(), folder / "set", to="coco", split="train", image_files="copy")
    return folder


Command = Callable[..., api.RunResult]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs `stdet …` in a folder of its own; what it would show."""

    def run(*arguments: object) -> api.RunResult:
        found: list[api.RunResult] = []
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(session.Session, "result", lambda self, result: found.append(result))
        app([str(argument) for argument in arguments], standalone_mode=False)
        return found[0]

    return run


def again(result: api.RunResult) -> api.RunResult:
    """What the config of a run folder does."""
    return api.run(api.load_config(result.run_dir / "config.yaml"), SilentReporter())


def files_of(folder: Path) -> tuple[Path, Path]:
    return folder / "train", folder / "annotations" / "instances_train.json"


def test_a_checkpoint_is_scored_exported_and_quantized_as_its_config_would(place: Path, command: Command) -> None:
    images, annotations = files_of(place / "set")
    scored = command(
        "evaluate", place / "own", "--images", images, "--annotations", annotations, "--format", "coco", *QUICK
    )
    metrics = scored.document["stages"]["evaluate_float"]["metrics"]
    assert again(scored).document["stages"]["evaluate_float"]["metrics"] == metrics
    exported = command("export", place / "own")
    onnx = Path(exported.document["stages"]["export"]["path"])
    assert sha256_file(Path(again(exported).document["stages"]["export"]["path"])) == sha256_file(onnx)
    quantized = command("quantize", onnx, "--images", images, *QUICK)
    int8 = Path(quantized.document["stages"]["quantize"]["path"])
    assert sha256_file(Path(again(quantized).document["stages"]["quantize"]["path"])) == sha256_file(int8)
    benched = command("bench", int8, "--board", "stm32n6570-dk", "--backend", "estimate")
    macs = [report["macc"] for report in benched.document["reports"]]
    assert [report["macc"] for report in again(benched).document["stages"]["bench"]] == macs


def test_each_option_of_a_command_is_one_config_key(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def remember(what: Path, overrides: list[str], mode: str) -> None:
        given.append((mode, overrides))
        raise SystemExit

    monkeypatch.setattr(api, "load_command", remember)
    for arguments in (
        ["evaluate", "m", "--images", "a b", "--annotations", "c", "--format", "voc", "general.global_seed=1"],
        ["evaluate", "m", "--baseline", "b.json", "--min-ap", "0.5"],
        ["quantize", "m", "--images", "d", "--max-drop", "1"],
        ["predict", "m", "0", "general.global_seed=1"],
        ["predict", "m", "dataset.prediction_path=x"],
    ):
        with pytest.raises(SystemExit):
            app(arguments, standalone_mode=False)
    evaluated = ['dataset.test_images_path="a b"', 'dataset.test_annotations_path="c"', 'dataset.dataset_name="voc"']
    assert given == [
        ("evaluation", ["general.global_seed=1", *evaluated]),
        ("evaluation", ['evaluation.baseline="b.json"', 'evaluation.min_ap="0.5"']),
        ("quantization", ['dataset.quantization_path="d"', 'quantization.max_drop="1.0"']),
        ("prediction", ["general.global_seed=1", 'dataset.prediction_path="0"']),
        ("prediction", ["dataset.prediction_path=x"]),
    ]
