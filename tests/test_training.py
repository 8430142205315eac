"""Training recipes end to end: both families on both formats, the guide's YAML, the schedule's picture."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from stdet import api, stages
from stdet.build import Builder
from stdet.engine.callbacks import Callback, ClipGradNorm, EarlyStopping, TimeBudget
from stdet.engine.checkpoint import read_checkpoint
from stdet.engine.trainer import Trainer
from stdet.errors import StdetError
from stdet.interfaces.reporter import SilentReporter
from stdet.plugins.loader import load_plugins

YOLOD, SSD = "st_yolodv2milli_actrelu_pt", "ssdlite_mobilenetv3small_pt"
GUIDE = Path(os.environ.get("STDET_SHARED", Path(__file__).parents[2] / "shared")) / "reference" / "training_guide.md"
XML = """<annotation><filename>{name}.jpg</filename><size><width>96</width><height>80</height><depth>3</depth></size>
<object><name>person</name><difficult>0</difficult><bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>
</bndbox></object></annotation>"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five images with a square each, described in COCO's and in VOC's way."""
    rng = np.random.default_rng(0)
    for folder in ("images", "xml"):
        (tmp_path / folder).mkdir()
    images, annotations = [], []
    for number in range(5):
        x, y = (int(v) for v in rng.integers(4, 36, 2))
        pixels = rng.integers(0, 90, (80, 96, 3)).astype(np.uint8)
        pixels[y : y + 40, x : x + 40] = 220
        cv2.imwrite(str(tmp_path / "images" / f"{number:02d}.jpg"), pixels)
        name = f"{number:02d}"
        (tmp_path / "xml" / f"{name}.xml").write_text(XML.format(name=name, x=x, y=y, x2=x + 40, y2=y + 40))
        images.append({"id": number, "file_name": f"{name}.jpg", "width": 96, "height": 80})
        box = {"bbox": [x, y, 40, 40], "area": 1600, "iscrowd": 0}
        annotations.append({"id": number + 1, "image_id": number, "category_id": 1} | box)
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "coco.json").write_text(json.dumps(document))
    (tmp_path / "list.txt").write_text("\n".join(f"{n:02d}" for n in range(5)))
    return tmp_path


def paths(data: Path, kind: str) -> list[str]:
    """Overrides that name the data of both splits."""
    found = ["dataset.num_workers=0", "dataset.class_names=[person]"]
    for split in ("train", "val"):
        found += [f"dataset.{split}_images_path={data / 'images'}"]
        found += [f"dataset.{split}_annotations_path={data / ('coco.json' if kind == 'coco' else 'xml')}"]
        found += [f"dataset.{split}_split={data / 'list.txt'}"] if kind == "voc" else []
    return found


def train(data: Path, text: str, *overrides: str) -> list[dict[str, float]]:
    """The history of a run."""
    (data / "config.yaml").write_text(text)
    config = api.load_config(data / "config.yaml", [f"hydra.run.dir={data / 'run'}", *overrides])
    api.run(config, SilentReporter())
    (history,) = (data / "run").glob("*/history.json")
    return json.loads(history.read_text())["epochs"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["coco", "voc"])
@pytest.mark.parametrize(
    ("model", "size", "training"),
    [
        (YOLOD, 64, "optimizer: { AdamW: { learning_rate: 0.002, betas: [0.8, 0.99], eps: 1.0e-7, amsgrad: True } }"),
        (
            SSD,
            96,
            "base_net_lr: 0.0001, scheduler: multi-step, milestones: [1], gamma: 0.5, "
            "optimizer: { SGD: { learning_rate: 0.01 } }",
        ),
    ],
)
def test_both_families_train_on_both_formats(data: Path, kind: str, model: str, size: int, training: str) -> None:
    text = f"operation_mode: training\nmodel: {{ model_name: {model}, input_shape: [3, {size}, {size}] }}\n"
    text += f"dataset: {{ dataset_name: {kind} }}\ntraining: {{ batch_size: 4, epochs: 2, device: cpu, {training} }}\n"
    history = train(data, text, *paths(data, kind))
    assert len(history) == 2
    assert all(np.isfinite(row["total"]) and "AP50" in row for row in history)
    state = torch.load(data / "run" / "saved_models" / "latest_ckpt.pth", weights_only=True)["optimizer"]
    groups = {group["name"]: group for group in state["param_groups"]}
    if model == SSD:
        assert [round(groups[n]["lr"], 9) for n in ("backbone", "extra layers", "heads")] == [5e-5, 5e-3, 5e-3]
    else:
        assert all((g["betas"], g["eps"], g["amsgrad"]) == ((0.8, 0.99), 1e-7, True) for g in groups.values())


def guide_config(family: str) -> str:
    """The blocks of the guide's chapter on training, put together."""
    text = GUIDE.read_text(encoding="utf-8")
    blocks = [b for b in re.findall(r"```yaml\s*\n(.*?)```", text, re.DOTALL) if re.search(r"^ *[a-z_]+ *:", b, re.M)]

    def block(start: str, mark: str = "") -> str:
        return next(b for b in blocks if re.sub(r"^#.*\n", "", b).lstrip().startswith(start) and mark in b)

    ssd = family == "ssd"
    parts = [
        block("general"),
        block("model", ": ssd" if ssd else "st_yolod"),
        block("dataset", "VOC" if ssd else "coco"),
    ]
    parts.append("" if ssd else re.sub(r"^  ", "    ", block("multiscale_range"), flags=re.M))
    parts += [block("training", ": ssd" if ssd else "'yolod'"), block("preprocessing")]
    return "operation_mode: training\n" + "\n".join(parts)


@pytest.mark.parametrize("family", ["ssd", "st_yolod"])
def test_the_guides_training_files_check_and_start(data: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not GUIDE.exists():
        pytest.skip("the guide isn't here")
    text = guide_config(family)
    (data / "guide.yaml").write_text(text)
    config = api.load_config(data / "guide.yaml")
    assert config.model.pretrained
    published(data, config.model.model_name or "", "coco_person_300" if family == "ssd" else "coco_640")
    monkeypatch.setenv("STDET_WEIGHTS", str(data))
    monkeypatch.setenv("STDET_CACHE", str(data / "cache"))
    small = ["training.epochs=1", "training.batch_size=4", "training.device=cpu", "general.logger=null"]
    small += ["model.input_shape=[3,96,96]", *paths(data, "voc" if family == "ssd" else "coco")]
    small += [] if family == "ssd" else ["dataset.random_size=[2,4]", "training.no_aug_epochs=0"]
    assert np.isfinite(train(data, text, *small)[0]["total"])


def published(folder: Path, model: str, name: str) -> None:
    """A stand-in for a published file: 80 classes, random weights."""
    catalogue, _ = load_plugins()
    spec = catalogue.family(model).spec(model, tuple(map(str, range(80))))
    torch.save({"model": catalogue.build("models", model, spec).state_dict()}, folder / f"{model}_{name}.pth")


def test_the_schedule_is_drawn_without_training_for_every_rate(data: Path) -> None:
    text = f"operation_mode: training\nmodel: {{ model_name: {SSD} }}\ntraining: {{ batch_size: 2, epochs: 10, "
    text += "base_net_lr: 0.001, optimizer: { SGD: { learning_rate: 0.1 } }, t_max: 5 }\n"
    (data / "config.yaml").write_text(text)
    config = api.load_config(data / "config.yaml", paths(data, "coco"))
    picture = data / "plots" / "schedule.png"
    drawn = api.plot_schedule(config, picture)
    assert drawn["steps_per_epoch"] == 2  # five images in twos; the last one joins the batch before
    rates = {rate["base"]: rate for rate in drawn["learning_rates"]}
    assert rates[0.001]["groups"] == ["backbone"]
    assert rates[0.1]["groups"] == ["extra layers", "heads"]
    assert (rates[0.1]["first"], rates[0.1]["highest"], rates[0.1]["last"]) == (0.1, 0.1, 0.0)
    image = cv2.imread(str(picture))
    assert image is not None
    assert (image < 100).any()
    assert not (data / "run").exists()


def test_without_the_images_the_schedule_needs_the_number_of_steps(data: Path) -> None:
    text = f"operation_mode: training\nmodel: {{ model_name: {YOLOD} }}\n"
    (data / "config.yaml").write_text(text)
    config = api.load_config(data / "config.yaml", [p.replace(str(data), "/nowhere") for p in paths(data, "coco")])
    with pytest.raises(StdetError) as caught:
        api.plot_schedule(config, data / "schedule.png")
    assert "number of steps" in caught.value.hint
    drawn = api.plot_schedule(config, data / "schedule.png", 100)
    (rate,) = drawn["learning_rates"]
    assert rate["highest"] == pytest.approx(0.01)
    assert rate["last"] == pytest.approx(0.0005)
    with pytest.raises(StdetError, match="drawn as PNG"):
        api.plot_schedule(config, data / "schedule.svg", 100)


def told(run: Path) -> list[dict[str, Any]]:
    """What a tracker was told of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_fails_is_not_called_finished(data: Path) -> None:
    other = data / "other.pth"
    torch.save({"somebody": torch.zeros(1), "elses": torch.zeros(1)}, other)
    (data / "config.yaml").write_text(
        f"operation_mode: evaluation\nmodel: {{ model_name: {SSD}, model_path: {other} }}\n"
    )
    config = api.load_config(data / "config.yaml", [f"hydra.run.dir={data / 'run'}", *paths(data, "coco")])
    with pytest.raises(StdetError, match=r"other\.pth"):
        api.run(config, SilentReporter())
    assert told(data / "run")[-1] == {"outcome": "failed"}


class Onlooker(Callback):
    """Notes what lies in the run folder when an epoch begins to be evaluated, and how torch computes."""

    def __init__(self) -> None:
        self.epochs: list[tuple[int, bool]] = []
        self.deterministic: list[bool] = []

    def after_epoch(self, trainer: Trainer) -> None:
        history = trainer.folder / "history.json"
        rows = len(json.loads(history.read_text())["epochs"]) if history.exists() else 0
        self.epochs.append((rows, (trainer.folder.parent / "curves.png").exists()))
        self.deterministic.append(torch.are_deterministic_algorithms_enabled())


def test_curves_come_with_each_evaluation_and_what_the_config_asks_of_the_loop_is_done(data: Path) -> None:
    text = f"operation_mode: training\nmodel: {{ model_name: {SSD}, input_shape: [3, 96, 96] }}\n"
    text += "general: { deterministic: True, logger: None }\ntraining: { batch_size: 4, epochs: 9, device: cpu, "
    text += (
        "early_stopping: 1, clip_grad_norm: 1.0e-9, time_budget: 2h, optimizer: { SGD: { learning_rate: 1.0e-9 } } }\n"
    )
    (data / "config.yaml").write_text(text)
    config = api.load_config(data / "config.yaml", [f"hydra.run.dir={data / 'run'}", *paths(data, "coco")])
    onlooker = Onlooker()
    result = api.run(config, SilentReporter(), callbacks=[onlooker])
    assert onlooker.epochs == [(0, False), (1, True)]  # nothing is learned: the second evaluation is no better
    assert onlooker.deterministic == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()
    assert result.document["stages"]["train"]["best_epoch"] == 1
    tracked = told(data / "run")
    assert tracked[0]["params"]["training.early_stopping"] == 1
    assert [line["step"] for line in tracked if "val/AP50" in line] == [1, 2]
    best = result.document["stages"]["train"]["best_checkpoint"]
    assert best in [line.get("file") for line in tracked]
    assert any("final/best_AP" in line for line in tracked)
    assert tracked[-1] == {"outcome": "finished"}
    scored = api.load_config(
        data / "config.yaml",
        [f"hydra.run.dir={data / 'run'}", f"model.model_path={best}", *paths(data, "coco")],
        "evaluation",
    )
    api.run(scored, SilentReporter())
    assert any("val_float/AP50" in line for line in told(data / "run_1"))
    made = Builder(config, load_plugins()[0]).callbacks()
    assert [type(callback) for callback in made] == [ClipGradNorm, EarlyStopping, TimeBudget]


def test_synchronized_batch_norm_is_refused_where_there_is_none(data: Path) -> None:
    (data / "config.yaml").write_text(
        f"operation_mode: training\nmodel: {{ model_name: {SSD}, input_shape: [3, 96, 96] }}\n"
    )
    given = [
        f"hydra.run.dir={data / 'run'}",
        *paths(data, "coco"),
        "training.sync_batch_norm=True",
    ]
    with pytest.raises(StdetError, match="sync_batch_norm works on CUDA devices only"):
        api.run(api.load_config(data / "config.yaml", given), SilentReporter())
    with pytest.raises(StdetError, match=r"training\.device is cpu"):
        api.load_config(data / "config.yaml", [*given, "training.device=cpu"])


def test_a_chain_that_was_killed_after_its_training_goes_on_with_the_next_stage(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "config.yaml").write_text(
        f"operation_mode: training\nmodel: {{ model_name: {SSD}, input_shape: [3, 96, 96] }}\n"
        "general: { saved_models_dir: models }\n"
        "training: { batch_size: 4, epochs: 2, device: cpu, optimizer: { SGD: { learning_rate: 0.01 } } }\n"
    )
    given = [f"hydra.run.dir={data / 'run'}", *paths(data, "coco"), "training.resume_training_from=auto"]

    def run(*changes: str) -> dict[str, Any]:
        return api.run(api.load_config(data / "config.yaml", [*given, *changes]), SilentReporter()).document["stages"]

    with monkeypatch.context() as killed:
        killed.setitem(stages.WORK, "export", lambda run: sys.exit(1))
        with pytest.raises(SystemExit):
            run()
    first = read_checkpoint(data / "run" / "models" / "latest_ckpt.pth")
    again = run()
    assert again["train"]["best_checkpoint"] == str(data / "run_1" / "models" / "best_ckpt.pth")
    second = read_checkpoint(data / "run_1" / "models" / "latest_ckpt.pth")
    assert torch.equal(first["generators"]["torch"], second["generators"]["torch"])  # no step was taken
    assert second["history"] == first["history"]
    assert "export" in again
    assert len(list((data / "run_1" / "models").glob("*.onnx"))) == 1
    run("dataset.seed=7")
    other = read_checkpoint(data / "run_2" / "models" / "latest_ckpt.pth")
    assert other["history"] != first["history"]  # another config is another training


def test_a_time_budget_has_a_unit(data: Path) -> None:
    (data / "config.yaml").write_text(f"operation_mode: training\nmodel: {{ model_name: {SSD} }}\n")
    with pytest.raises(StdetError, match=r"training\.time_budget"):
        api.load_config(data / "config.yaml", [*paths(data, "coco"), "training.time_budget=30"])
