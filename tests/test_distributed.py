"""Two processes under torchrun: they train together, evaluate without doing anything twice, and one of them writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
STDET = str(Path(sys.executable).with_name("stdet"))

CONFIG = """\
operation_mode: training
general: {{ saved_models_dir: models, logger: None, global_seed: 2 }}
model: {{ model_name: {model}, input_shape: [3, 96, 96] }}
dataset:
  dataset_name: coco
  train_images_path: {out}/train
  train_annotations_path: {out}/annotations/instances_train.json
  val_images_path: {out}/val
  val_annotations_path: {out}/annotations/instances_val.json
training:
  {{ batch_size: 2, epochs: {epochs}, eval_interval: 5, ema: {ema}, device: cpu,
     optimizer: {{ AdamW: {{ learning_rate: 0.002 }} }} }}
postprocessing: {{ confidence_thresh: 0.0 }}
hydra: {{ run: {{ dir: {out}/run }} }}
"""


def write_config(folder: Path, model: str, epochs: int = 10, ema: bool = False) -> Path:
    """A config beside 22 training and 11 validation images: numbers that two processes can't share out evenly.

    One class alone, so that on every processor these few steps find something to score.
    """
    from stdet.interfaces.dataset import DatasetRequest
    from stdet_datasets.options import SyntheticOptions
    from stdet_datasets.synthetic import SyntheticDataset, write_coco

    for split, count in (("train", 22), ("val", 11)):
        options = SyntheticOptions(num_images=count, image_size=96)
        write_coco(SyntheticDataset(DatasetRequest("train", class_names=("disc",), options=options)), folder, split)
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(model=model, out=folder, epochs=epochs, ema=ema))
    return path


def run(*command: str) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)  # one document, although two processes ran
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    ("model", "ema"), [("st_yolodv2milli_actrelu_pt", False), ("ssdlite_mobilenetv3small_pt", True)]
)
def test_two_processes_train_together_and_score_as_one_does(model: str, ema: bool, tmp_path: Path) -> None:
    config = write_config(tmp_path, model, ema=ema)
    trained = run(*TORCHRUN, STDET, "train", str(config), "--json")["stages"]
    assert [p.name for p in tmp_path.glob("run*")] == ["run"]
    history = json.loads((tmp_path / "run" / "models" / "history.json").read_text())["epochs"]
    assert len(history) == 10

    best = trained["train"]["best_checkpoint"]
    alone = run(STDET, "evaluate", str(config), "--json", f"model.model_path={best}")["stages"]["evaluate_float"]
    together = run(*TORCHRUN, STDET, "evaluate", str(config), "--json", f"model.model_path={best}")
    shared = together["stages"]["evaluate_float"]
    assert shared["images"] == alone["images"] == 11
    assert shared["detections"] == alone["detections"] > 0
    assert shared["metrics"] == pytest.approx(alone["metrics"], abs=1e-6)
    # What training said of these weights is what they score: both processes evaluated the ones that were saved.
    said = history[trained["train"]["best_epoch"] - 1]
    assert {name: said[name] for name in ("AP", "AR100")} == pytest.approx(
        {name: alone["metrics"][name] for name in ("AP", "AR100")}, abs=1e-6
    )
    assert alone["metrics"]["AR100"] > 0


def test_two_processes_fine_tune_with_int8_simulated(tmp_path: Path) -> None:
    from stdet.engine.checkpoint import read_checkpoint

    config = write_config(tmp_path, "ssdlite_mobilenetv3small_pt", epochs=2)
    start = run(STDET, "train", str(config), "--json")["stages"]["train"]["best_checkpoint"]
    options = [f"model.model_path={start}", "training.quantization_aware=Int8", "training.epochs=1"]
    trained = run(*TORCHRUN, STDET, "train", str(config), "--json", *options)["stages"]["train"]
    before, after = read_checkpoint(Path(start)), read_checkpoint(Path(trained["latest_checkpoint"]))
    assert before["model"].keys() == after["model"].keys()
    assert not before["model"]["base_net.0.weight"].equal(after["model"]["base_net.0.weight"])
    assert before["simulation"] is None
    low, high = after["simulation"]["low"], after["simulation"]["high"]
    assert len(low) > 100
    assert bool((low < high).all())  # each was seen, in both processes: their mean is a number


def test_a_mistake_ends_all_processes_with_its_message(tmp_path: Path) -> None:
    config = write_config(tmp_path, "ssdlite_mobilenetv3small_pt")
    done = subprocess.run(
        [*TORCHRUN, STDET, "train", str(config), "model.model_path=nowhere.pth"], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "nowhere.pth" in done.stderr


def test_a_mistake_that_only_the_first_process_meets_is_no_bug_of_the_other(tmp_path: Path) -> None:
    config = write_config(tmp_path, "ssdlite_mobilenetv3small_pt")
    done = subprocess.run(
        [*TORCHRUN, STDET, "train", str(config), "hydra.run.dir=/dev/null/run"], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "error: cannot make the run folder" in done.stderr
    assert "error: the first process failed" in done.stderr or "SIGTERM" in done.stderr  # torchrun may end it first
    assert "bug in stdet" not in done.stderr
    assert "deprecated" not in done.stderr


def test_a_stop_leaves_all_processes_at_the_same_step(tmp_path: Path) -> None:
    config = write_config(tmp_path, "ssdlite_mobilenetv3small_pt", epochs=500)
    process = subprocess.Popen(
        [*TORCHRUN, STDET, "train", str(config), "training.eval_interval=500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    latest = tmp_path / "run" / "models" / "latest_ckpt.pth"
    deadline = time.monotonic() + 240
    while not latest.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    output, _ = process.communicate(timeout=120)
    assert output.count("stopped in epoch") == 2, output[-3000:]
    assert len({line for line in output.splitlines() if "stopped in epoch" in line}) == 1
    assert latest.exists()
