"""`stdet init`: from a folder to a config that runs, in every layout, and what it says where it can't."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from stdet import api
from stdet.errors import ArtifactError, DataError, ModelError, StdetError
from stdet.fitting import Candidate, Fit
from stdet.interfaces.deploy import BenchReport
from stdet.interfaces.reporter import SilentReporter
from stdet_cli.main import app

QUIET = SilentReporter()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Generated photographs: COCO with three sides, VOC and YOLO of one."""
    root = tmp_path_factory.mktemp("photographs")
    keys = ["dataset.dataset_name=synthetic", "dataset.num_images=24", "dataset.image_size=96"]
    for name in ("coco", "voc", "yolo"):
        config, split = api.load_data_config(None, keys), None if name == "coco" else "train"
        api.write_data(config, QUIET, root / name, to=name, image_files="copy", split=split)
        (root / name / "dataset.yaml").unlink()
    return {name: root / name for name in ("coco", "voc", "yolo")}


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_every_layout_gives_a_config_that_is_right_and_says_why(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    output = tmp_path / "training.yaml"
    made = api.propose_config(folders[name], QUIET, output)
    assert not made.failed
    api.check_config(output)
    keys = yaml.safe_load(output.read_text())
    assert keys["dataset"]["dataset_name"] == name
    assert len(keys["dataset"]["class_names"]) == 6
    for entry in made.document["entries"]:
        section, _, key = entry["key"].partition(".")
        assert entry["value"] == (keys[section][key] if key else keys[section])
    reasons = [entry["reason"] for entry in made.document["entries"] if entry["reason"]]
    comments = " ".join(line.strip(" #") for line in output.read_text().splitlines() if line.strip().startswith("#"))
    assert all(reason in comments for reason in reasons)
    assert (tmp_path / "training_split").exists() == (name != "coco"), "an unsplit set is divided"


def test_the_config_trains_an_epoch(folders: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "mine.yaml"
    run = CliRunner().invoke(app, ["init", str(folders["voc"]), "-o", str(output)])
    assert run.exit_code == 0, run.output
    assert "proposed" in run.output
    short = [
        "training.epochs=1",
        "training.no_aug_epochs=0",
        "model.input_shape=[3,64,64]",
        "dataset.num_workers=0",
        "training.batch_size=8",
    ]
    config = api.load_config(output, [*short, f"hydra.run.dir={tmp_path / 'run'}"], "training")
    assert config.training.optimizer is not None
    assert list((api.run(config, QUIET).run_dir).rglob("*.onnx"))


def test_the_board_is_asked(folders: dict[str, Path], tmp_path: Path) -> None:
    wishes: dict[str, Any] = {"model": "ssdlite_mobilenetv3small_pt", "board": "stm32n6570-dk"}
    api.propose_config(folders["coco"], QUIET, tmp_path / "board.yaml", **wishes)
    text = (tmp_path / "board.yaml").read_text()
    keys = yaml.safe_load(text)
    assert (keys["operation_mode"], keys["benchmarking"]["board"]) == ("chain_tqeb", "stm32n6570-dk")
    assert re.search(r"STM32N6570-DK: the model fits; [0-9.]+ ms", text)


def test_what_is_too_large_is_taken_smaller_or_narrower(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board's answers are made up: the real ones take a dozen exports."""
    report = BenchReport("model", "", "estimate", "stdet", "1", device="a board", fits=True)
    answers: dict[str, tuple[Candidate, ...]] = {}
    asked = []

    def answer(builder: Any, reporter: Any, latency_ms: float | None) -> Fit:
        name = builder.config.model.model_name
        asked.append((name, latency_ms))
        return Fit(Candidate("", report, "too large" if name in answers else ""), answers.get(name, ()))

    monkeypatch.setattr("stdet.starting.network.fit", answer)

    def chosen(number: int, **wishes: Any) -> dict[str, Any]:
        output = tmp_path / f"{number}.yaml"
        api.propose_config(folders["coco"], QUIET, output, board="stm32n6570-dk", **wishes)
        return yaml.safe_load(output.read_text())["model"]

    finer, coarser = "st_yolodv2milli_actrelu_pt", "ssdlite_mobilenetv3small_pt"
    assert chosen(1, latency_ms=7)["model_name"] == finer
    assert asked == [(finer, 7)]
    answers[finer] = (Candidate("model.input_shape=[3,64,64]", report, ""),)
    assert chosen(2)["model_name"] != finer, "another one fits at the size that the objects want"
    answers["ssdlite_mobilenetv3large_pt"] = answers[coarser] = ()
    assert chosen(3) == {"model_name": finer, "input_shape": [3, 64, 64]}
    answers[coarser] = (Candidate("model.width_mult=0.5", report, ""),)
    narrow = chosen(4, model=coarser)
    assert narrow["width_mult"] == 0.5
    answers[coarser] = ()
    with pytest.raises(ModelError, match="no proposed model fits stm32n6570-dk within 7 ms at any size"):
        chosen(5, model=coarser, latency_ms=7)
    assert not (tmp_path / "5.yaml").exists()


def test_what_cannot_be_begun_says_what_to_do(folders: dict[str, Path], tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    shutil.copytree(folders["coco"] / "train", photographs)
    output = tmp_path / "out.yaml"

    def refused(kind: type[StdetError], source: Path, **wishes: Any) -> str:
        with pytest.raises(kind) as caught:
            api.propose_config(source, QUIET, output, **wishes)
        assert not output.exists()
        return f"{caught.value.message} {caught.value.hint}"

    told = refused(DataError, photographs)
    assert "24 images, but no annotations" in told
    assert "coco, voc, yolo" in told
    assert "stdet predict" in told
    (tmp_path / "empty").mkdir()
    assert "no image" in refused(DataError, tmp_path / "empty")
    assert "nowhere" in refused(StdetError, tmp_path / "nowhere")
    both = tmp_path / "both"
    shutil.copytree(folders["coco"], both / "c")
    shutil.copytree(folders["yolo"], both / "y")
    assert "--format coco" in refused(DataError, both)
    assert "no_such" in refused(StdetError, folders["coco"], model="no_such")
    assert "no_such" in refused(StdetError, folders["coco"], board="no_such")
    output.write_text("mine\n")
    with pytest.raises(ArtifactError, match="exists already"):
        api.propose_config(folders["coco"], QUIET, output)
    assert output.read_text() == "mine\n"


def test_errors_in_the_data_are_told_and_the_exit_code_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    broken, damaged = tmp_path / "broken", tmp_path / "damaged"
    shutil.copytree(folders["yolo"], broken)
    next((broken / "labels").rglob("*.txt")).write_text("0 .5 .5\n")
    with pytest.raises(DataError, match="unusable label lines"):
        api.propose_config(broken, QUIET, tmp_path / "a.yaml")
    assert not list(tmp_path.glob("a*")), "not divided, not written"
    shutil.copytree(folders["coco"], damaged)
    image = next((damaged / "val").iterdir())
    image.write_bytes(image.read_bytes()[:-40])
    run = CliRunner().invoke(app, ["init", str(damaged), "-o", str(tmp_path / "b.yaml")])
    assert run.exit_code == 2
    assert "D002" in run.output
    assert (tmp_path / "b.yaml").exists(), "a training would stop; the config is there all the same"
