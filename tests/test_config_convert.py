"""`stdet config convert`: what is right stays as it was written, every change says why, and nothing is executed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from stdet import api
from stdet.config import Converted, convert_text, load_text
from stdet.errors import ArtifactError, ConfigError
from stdet.plugins.loader import load_plugins
from stdet_cli.main import app

SECTIONS = yaml.safe_load((Path(__file__).parent / "reference_style" / "sections.yaml").read_text(encoding="utf-8"))
OLD = """\
# mine
operation_mode: training
general:
  model_path: ./old.pth   # where it stood once
  gpu_memory_limit: 12 # GB
model:
  model_type : ssd
  model_name: ssdlite_mobilenetv2_pt # keep
dataset:
  format: coco
  dataset_name: coco
  num_worker: 4
  class_names: ('a', 'b')
  train_images_path: x
  train_annotations_path: x.json
  val_images_path: y
  val_annotations_path: y.json
  mosaic_prob: 0.5
data_augmentation:
  random_flip:
    mode: horizontal

  blur: 3
training:
  frozen_layers:
    - 3
    - 4
  callbacks: |
    text
    more
  optimizer: {Adam: {learning_rate: 5e-4, foo: 3,
      weight_decay: 5e-4}, }
preprocessing: {normalization: 3, rescaling: {scale: 1/127.5, offset: -1}}
"""
NEW = """\
# mine
operation_mode: training
general:
  # stdet: moved to model.model_path
  # model_path: ./old.pth   # where it stood once
  # stdet: has no meaning here: it belongs to the TensorFlow flow, and this one is PyTorch only
  # gpu_memory_limit: 12 # GB
model:
  model_path: "./old.pth"  # was general.model_path
  model_type : ssd
  model_name: ssdlite_mobilenetv2_pt # keep
dataset:
  # stdet: says what `dataset_name` says
  # format: coco
  dataset_name: coco
  # stdet: was `num_worker`
  num_workers: 4
  class_names: ('a', 'b')
  train_images_path: x
  train_annotations_path: x.json
  val_images_path: y
  val_annotations_path: y.json
  # stdet: belongs to the transform `yolox`, which this config doesn't use
  # mosaic_prob: 0.5
# stdet: has no meaning here: the dataset section has the keys of PyTorch trainings
# data_augmentation:
#   random_flip:
#     mode: horizontal

#   blur: 3
training:
  # stdet: has no meaning here: it belongs to the TensorFlow flow, and this one is PyTorch only
  # frozen_layers:
  #   - 3
  #   - 4
  # stdet: has no meaning here: it belongs to the TensorFlow flow, and this one is PyTorch only
  # callbacks: |
  #   text
  #   more
  # stdet: without foo: unknown key (found 3)
  optimizer: {Adam: {learning_rate: 5e-4, 
weight_decay: 5e-4}, }
# stdet: without normalization: has no meaning here: use mean and std
preprocessing: {rescaling: {scale: 1/127.5, offset: -1}}
"""  # noqa: W291


def convert(text: str) -> Converted:
    return convert_text(text, "old.yaml", load_plugins()[0])


def test_an_old_config_keeps_what_is_right_and_says_what_is_not() -> None:
    made = convert(OLD)
    assert made.text == NEW
    assert not made.remaining
    config = load_text(made.text, "new.yaml", (), load_plugins()[0])
    assert config.model.model_path == Path("old.pth")
    assert config.training.optimizer is not None
    assert config.training.optimizer.name == "Adam"
    old_lines = OLD.splitlines()
    for change in made.changes:
        assert change.key.rpartition(".")[2] in old_lines[change.line - 1]
    assert convert(made.text) == Converted(made.text, (), ()), "what is ours is left alone"


@pytest.mark.parametrize("family", ["ssd", "st_yolod"])
def test_a_documented_training_loses_nothing(family: str) -> None:
    parts = [SECTIONS[name] for name in ("common", f"model {family}", "dataset coco", f"training {family}")]
    text = "\n".join(["operation_mode: training", *parts, SECTIONS["postprocessing"]])
    made = convert(text)
    assert not made.remaining
    assert {change.key for change in made.changes} <= {"dataset.format", "training.validation_epochs"}
    before, after = (load_text(t, "a.yaml", (), load_plugins()[0]).document() for t in (text, made.text))
    del before["hydra"], after["hydra"]
    assert before == after


def test_what_is_misspelt_is_left_to_a_person(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("operation_mode: export\nmodel: {model_nane: ssdlite_mobilenetv2_pt}\ntraining:\n  epohcs: 3\n")
    run = CliRunner().invoke(app, ["config", "convert", str(old), "-o", str(new)])
    assert run.exit_code == 2
    assert "left for you to mend" in run.output
    assert "epohcs" in run.output
    assert new.read_text() == old.read_text()
    with pytest.raises(ArtifactError, match="exists already"):
        api.convert_config(old, new)


def test_a_converted_file_passes_the_check_when_its_paths_exist(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    for name in ("old.pth", "x.json", "y.json"):
        (tmp_path / name).touch()
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    text = OLD.replace("./old.pth", str(tmp_path / "old.pth"))
    for name in ("x.json", "y.json", "x", "y"):
        text = text.replace(f"path: {name}\n", f"path: {tmp_path / name}\n")
    old.write_text(text)
    run = CliRunner().invoke(app, ["config", "convert", str(old), "-o", str(new), "--json"])
    assert run.exit_code == 0, run.output
    api.check_config(new)
    assert old.read_text() == text


@pytest.mark.parametrize(
    "text",
    [
        "a: !touch /tmp/x",
        "operation_mode: [training",
        "- a list",
        "dataset:\n  seed: !!int abc\n",
    ],
)
def test_what_is_no_config_is_refused_and_nothing_runs(text: str) -> None:
    with pytest.raises(ConfigError):
        convert(text)


def test_a_tag_that_would_run_code_is_text_that_is_left_out(tmp_path: Path) -> None:
    made = convert(f"operation_mode: export\na: !!python/object/apply:os.system ['touch {tmp_path}/x']\n")
    assert made.text.splitlines()[-1].startswith("# a: !!python")
    assert not list(tmp_path.iterdir())


def test_expressions_and_references_stay_text() -> None:
    made = convert("operation_mode: export\nmodel:\n  model_name: ${oc.env:HOME}\ngeneral:\n  occupy: 1/3\n")
    assert "${oc.env:HOME}" in made.text
    assert made.remaining
    assert convert("").remaining, "an empty file is no config, either"
    assert len(convert("training: {" + ", ".join(f"q{i}zz: 1" for i in range(120)) + "}").changes) == 120
