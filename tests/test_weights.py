"""Weights in a run: published ones, a classifier's backbone, our own checkpoints; and files that don't fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision
from reporters import Notes

from stdet import api
from stdet.errors import StdetError
from stdet.interfaces.published import published_weights
from stdet.plugins.loader import load_plugins

YAML = """\
operation_mode: training
general: {{ logger: null }}
model: {{ model_name: {model}, input_shape: [3, {size}, {size}], pretrained: {pretrained} }}
dataset:
  dataset_name: synthetic
  num_images: 4
  image_size: 64
  num_workers: 0
training: {{ batch_size: 4, epochs: 1, device: cpu, optimizer: {{ SGD: {{ learning_rate: 1.0e-12 }} }} }}
"""
YOLOD, SSD = "st_yolodv2milli_actrelu_pt", "ssdlite_mobilenetv3small_pt"


def run(folder: Path, *overrides: str, model: str = YOLOD, pretrained: bool = False) -> tuple[api.RunResult, str]:
    """The result of a run, and its notes."""
    path = folder / "config.yaml"
    path.write_text(YAML.format(model=model, size=64 if model == YOLOD else 96, pretrained=pretrained))
    reporter = Notes()
    result = api.run(api.load_config(path, [f"hydra.run.dir={folder / 'run'}", *overrides]), reporter)
    return result, "\n".join(reporter.notes)


def state_of(model: str, num_classes: int, seed: int) -> dict[str, torch.Tensor]:
    catalogue, _ = load_plugins()
    spec = catalogue.family(model).spec(model, tuple(f"c{i}" for i in range(num_classes)))
    torch.manual_seed(seed)
    return catalogue.build("models", model, spec).state_dict()  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("STDET_WEIGHTS", raising=False)


@pytest.mark.parametrize(
    ("model", "counts"),
    [("ssd", {"voc": 6, "coco": 6, "coco_person": 6, "imagenet": 4}), ("st_yolod", {"coco": 6, "coco_person": 6})],
)
def test_every_published_file_is_listed_for_a_model_that_exists(model: str, counts: dict[str, int]) -> None:
    catalogue, _ = load_plugins()
    family = catalogue.families()[model]
    rows = published_weights(family)
    assert {d: sum(r.dataset == d for r in rows) for d in counts} == counts
    assert len(rows) == sum(counts.values()) == len({(r.model, r.dataset, r.resolution) for r in rows})
    assert all(catalogue.family(row.model) is family for row in rows)
    assert all(row.url.startswith("https://") and row.url.endswith(f"/{row.file}") for row in rows)


def test_torchvisions_files_are_listed_with_its_own_addresses_and_hashes() -> None:
    models = torchvision.models
    official = {
        models.MobileNet_V2_Weights.IMAGENET1K_V1.url,
        models.MobileNet_V3_Small_Weights.IMAGENET1K_V1.url,
        models.MobileNet_V3_Large_Weights.IMAGENET1K_V1.url,
    }
    catalogue, _ = load_plugins()
    rows = [row for row in published_weights(catalogue.families()["ssd"]) if row.backbone]
    assert {row.url for row in rows} == official
    assert all(row.sha256 == row.file[-12:-4] for row in rows)


def test_published_weights_of_a_folder_start_a_training_and_what_was_skipped_is_said(tmp_path: Path) -> None:
    state = state_of(YOLOD, 80, seed=5)
    torch.save({"model": state, "start_epoch": 300}, tmp_path / f"{YOLOD}_coco_320.pth")
    result, notes = run(
        tmp_path,
        "model.pretrained_dataset=coco",
        "model.pretrained_input_shape=[3,320,320]",
        f"model.weights_from={tmp_path}",
        "training.ema=False",
        pretrained=True,
    )
    assert "6 of another class count start fresh (head.cls_preds" in notes
    trained = torch.load(result.run_dir / "saved_models" / "latest_ckpt.pth", weights_only=True)["model"]
    assert torch.allclose(trained["backbone.conv1.0.weight"], state["backbone.conv1.0.weight"])
    assert trained["head.cls_preds.0.weight"].shape[0] != 80


def test_published_weights_can_be_evaluated(tmp_path: Path) -> None:
    torch.save({f"module.{k}": v for k, v in state_of(SSD, 6, seed=5).items()}, tmp_path / f"{SSD}_coco_300.pth")
    _, _ = run(
        tmp_path,
        "operation_mode=evaluation",
        "dataset.num_images=8",  # of four, the only test image would have no object
        "model.pretrained_dataset=coco",
        f"model.weights_from={tmp_path}",
        model=SSD,
        pretrained=True,
    )
    report = json.loads((tmp_path / "run" / "reports" / "evaluate_float.json").read_text())
    assert report["model"]["file"] == f"{SSD}_coco_300.pth"


def test_a_classifier_starts_the_backbone_and_the_rest_is_said(tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = torchvision.models.mobilenet_v3_small().state_dict()
    torch.save(source, tmp_path / "classifier.pth")
    result, notes = run(
        tmp_path,
        "model.pretrained_dataset=imagenet",
        f"model.model_path={tmp_path / 'classifier.pth'}",
        model=SSD,
        pretrained=True,
    )
    assert "backbone: " in notes
    assert "start fresh" in notes
    assert "of the file have no place" in notes
    trained = torch.load(result.run_dir / "saved_models" / "latest_ckpt.pth", weights_only=True)["model"]
    assert torch.allclose(trained["base_net.0.weight"], source["features.0.0.weight"])


@pytest.mark.parametrize(
    ("model", "overrides", "message", "hint"),
    [
        (YOLOD, ["model.pretrained_dataset=voc"], "no weights of", "coco at 192, 320, 640 px"),
        (YOLOD, ["model.pretrained_dataset=imagenet"], "no weights of", "coco_person at 192, 256, 320 px"),
        (YOLOD, ["model.pretrained_dataset=coco"], "several weights of", "coco at 192, 320, 640 px"),
        ("ssd_mobilenetv1_pt", ["model.pretrained_dataset=imagenet"], "no weights of", "voc at 300 px"),
        (SSD, ["operation_mode=evaluation", "model.pretrained_dataset=imagenet"], "a classifier detects nothing", ""),
    ],
)
def test_weights_that_are_not_published_are_an_error_of_the_config(
    tmp_path: Path, model: str, overrides: list[str], message: str, hint: str
) -> None:
    with pytest.raises(StdetError, match=message) as caught:
        run(tmp_path, *overrides, model=model, pretrained=True)
    assert hint in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_classifier_with_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), tmp_path / "mobilenet_v3_small-047dcff4.pth")
    with pytest.raises(StdetError, match="is known to have 047dcff4"):
        run(tmp_path, "model.pretrained_dataset=imagenet", f"model.weights_from={tmp_path}", model=SSD, pretrained=True)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.model_name=st_yolodv2mili_actrelu_pt"], "did you mean `st_yolodv2milli_actrelu_pt`"),
        (["model.input_shape=[3,100,100]"], "multiples of 32, at least 64"),
        (["model.width_mult=0.5"], "fixed channels; choose the milli or the tiny model"),
        (["training.optimizer={SGD: {learning_rate: 0.1, betas: [0.9, 0.999]}}"], r"SGD.betas.*unknown key"),
        (["training.optimizer={Adam: {learning_rate: 0.1, momentum: 0.9}}"], r"Adam.momentum.*unknown key"),
        (["training.optimizer={RMSprp: {learning_rate: 0.1}}"], r"unknown optimizer 'RMSprp' \(did you mean `RMSprop`"),
        (["training.optimizer={SGD: {nesterov: True, momentum: 0}}"], "nesterov needs a momentum"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(StdetError, match=message):
        run(tmp_path, *overrides)
    assert not (tmp_path / "run").exists()


def test_an_ssd_input_below_the_smallest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StdetError, match="at least 96"):
        run(tmp_path, "model.input_shape=[3,64,64]", model=SSD)


def test_a_checkpoint_of_another_model_or_class_count_is_an_error(tmp_path: Path) -> None:
    for model, num_classes, mode in ((SSD, 3, "training"), (YOLOD, 7, "evaluation")):
        torch.save(state_of(model, num_classes, seed=1), tmp_path / "w.pth")
        with pytest.raises(StdetError, match="does not fit st_yolodv2milli_actrelu_pt with 6 classes") as caught:
            run(tmp_path, f"model.model_path={tmp_path / 'w.pth'}", f"operation_mode={mode}")
        assert "model.num_classes" in caught.value.hint
