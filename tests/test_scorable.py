"""A set with nothing to score is an error with a hint, in training and evaluation alike; other oddities are said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from stdet import api
from stdet.errors import DataError
from stdet.interfaces.reporter import SilentReporter

YAML = """\
operation_mode: training
general: { logger: null }
model: { model_name: st_yolodv2milli_actrelu_pt, input_shape: [3, 64, 64] }
dataset: { dataset_name: coco, num_workers: 0 }
training: { batch_size: 2, epochs: 1, device: cpu, optimizer: { SGD: { learning_rate: 0.001 } } }
"""
BOX = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 30, 30]}
CLASSES = ["cat", "dog"]


class Notes(SilentReporter):
    """Keeps what a run says, and whether a step was trained."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.labels: set[str] = set()

    def note(self, message: str) -> None:
        self.lines.append(message)

    def progress(self, label: str, *_: Any) -> None:
        self.labels.add(label)


def write(folder: Path, name: str, annotations: list[dict[str, Any]], classes: list[str] = CLASSES) -> Path:
    for number in (1, 2):
        Image.new("RGB", (64, 64), (number * 90, 20, 60)).save(folder / f"{number}.png")
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 64} for n in (1, 2)],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(classes)],
        "annotations": annotations,
    }
    (folder / name).write_text(json.dumps(document))
    return folder / name


def run(folder: Path, notes: Notes, *overrides: str, **sets: Path) -> api.RunResult:
    (folder / "config.yaml").write_text(YAML)
    keys = [f"hydra.run.dir={folder / 'run'}"]
    for split, path in sets.items():
        keys += [f"dataset.{split}_images_path={folder}", f"dataset.{split}_annotations_path={path}"]
    return api.run(api.load_config(folder / "config.yaml", [*keys, *overrides]), notes)


NOTHING = {
    "no annotation": ([], CLASSES),
    "crowd alone": ([BOX | {"iscrowd": 1}], CLASSES),
    "another class": ([BOX], ["cow"]),
}


@pytest.mark.parametrize("kind", NOTHING)
@pytest.mark.parametrize(("mode", "split"), [("training", "val"), ("chain_tqe", "test")])
def test_a_set_with_nothing_to_score_ends_a_training_before_its_first_epoch(
    tmp_path: Path, kind: str, mode: str, split: str
) -> None:
    sets = {name: write(tmp_path, f"{name}.json", [BOX]) for name in ("train", "val", "test")}
    sets[split] = write(tmp_path, f"{split}.json", *NOTHING[kind])
    notes = Notes()
    with pytest.raises(DataError, match=f"the {split} set has nothing to score: 2 images ") as error:
        run(tmp_path, notes, f"operation_mode={mode}", **sets)
    assert error.value.hint
    assert not any(label.startswith("epoch") for label in notes.labels)
    assert ("1 objects of other classes" in error.value.message) == (kind == "another class")
    assert (", 1 that are marked crowd" in error.value.message) == (kind == "crowd alone")


def test_what_is_left_out_is_said_and_evaluate_has_the_same_rule(tmp_path: Path) -> None:
    train = write(tmp_path, "train.json", [BOX])
    val = write(tmp_path, "val.json", [BOX, BOX | {"category_id": 3}], [*CLASSES, "cow"])
    notes = Notes()
    run(tmp_path, notes, train=train, val=val)
    assert "val set: 1 objects of other classes" in "\n".join(notes.lines)
    checkpoint = f"model.model_path={next((tmp_path / 'run').rglob('best_ckpt.pth'))}"

    person = write(tmp_path, "cat.json", [BOX], ["cat"])
    notes = Notes()
    report = run(tmp_path, notes, "operation_mode=evaluation", checkpoint, val=person).document["stages"][
        "evaluate_float"
    ]
    assert report["per_class"]["dog"] == {"AP": None, "AP50": None}
    assert report["per_class"]["cat"]["AP"] is not None
    assert "1 classes that the annotations don't list (no AP for dog" in "\n".join(notes.lines)
    assert run(tmp_path, notes, "operation_mode=evaluation", checkpoint, "dataset.class_names=[cat, dog]", val=person)

    empty = write(tmp_path, "empty.json", [])
    with pytest.raises(DataError, match="the val set has nothing to score"):
        run(tmp_path, Notes(), "operation_mode=evaluation", checkpoint, val=empty)

    notes = Notes()
    renamed = write(tmp_path, "renamed.json", [BOX], ["cat", "horse"])
    run(tmp_path, notes, checkpoint, train=renamed, val=renamed)
    assert "trained for other names and is taken as it is: dog -> horse" in "\n".join(notes.lines)


def test_training_on_no_object_is_said(tmp_path: Path) -> None:
    notes = Notes()
    run(tmp_path, notes, train=write(tmp_path, "train.json", []), val=write(tmp_path, "val.json", [BOX]))
    assert "the training set has no object" in "\n".join(notes.lines)
