"""`data stats` and `data preview`: the numbers are those of a slow count, the pictures those that the trainer gets."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stdet import api
from stdet.build import Builder
from stdet.data.preprocess import to_tensor_layout
from stdet.datatools.preview import _drawn, as_rgb
from stdet.errors import ConfigError, ModelError
from stdet.evaluation.plots import PALETTE
from stdet.interfaces.reporter import SilentReporter
from stdet.plugins.loader import load_plugins
from stdet.structures import Preprocess

QUIET = SilentReporter()


def config(tmp_path: Path, *overrides: str) -> Any:
    keys = [
        "dataset.dataset_name=synthetic",
        "dataset.num_images=10",
        "dataset.image_size=64",
        f"hydra.run.dir={tmp_path}/run",
    ]
    return api.load_data_config(None, [*keys, *overrides])


def test_the_statistics_are_those_of_a_slow_count(tmp_path: Path) -> None:
    result = api.describe_data(config(tmp_path), QUIET)
    dataset = Builder(config(tmp_path), load_plugins()[0]).dataset("train", None)
    annotations = [dataset.annotation(i) for i in range(len(dataset))]
    found = result.document["splits"]["train"]
    boxes = [box for a in annotations for box in a.boxes.tolist()]
    assert found["images"] == 10
    assert found["objects"] == len(boxes)
    assert found["images_without_objects"] == sum(not len(a.labels) for a in annotations)
    assert found["objects_per_image"]["p50"] == statistics.median(len(a.labels) for a in annotations)
    assert found["objects_per_image"]["max"] == max(len(a.labels) for a in annotations)
    sides = [((x2 - x1) * (y2 - y1)) ** 0.5 for x1, y1, x2, y2 in boxes]
    assert found["side"]["mean"] == pytest.approx(statistics.mean(sides), rel=1e-5)
    assert found["aspect_ratio"]["p50"] == pytest.approx(
        statistics.median((x2 - x1) / (y2 - y1) for x1, y1, x2, y2 in boxes), rel=1e-5
    )
    assert found["coco_sizes"] == {
        "small": sum(s < 32 for s in sides),
        "medium": sum(32 <= s < 96 for s in sides),
        "large": sum(s >= 96 for s in sides),
    }
    for label, name in enumerate(dataset.class_names):
        assert found["classes"][name]["objects"] == sum(a.labels.tolist().count(label) for a in annotations)
        assert found["classes"][name]["images"] == sum(label in a.labels for a in annotations)
    assert found["image_sizes"] == {"different": 1, "commonest_height_width": [64, 64]}
    assert {f.name for f in result.run_dir.iterdir()} == {"data_stats.json", "data_stats.png"}
    assert Image.open(result.document["picture"]).size[0] > 1000
    assert [len(t.rows) for t in result.tables] == [3, 6]


def test_a_set_without_any_object_has_statistics_too(tmp_path: Path) -> None:
    api.write_data(config(tmp_path), QUIET, tmp_path / "set", to="coco", split="train")
    path = tmp_path / "set/annotations/instances_train.json"
    text = path.read_text()
    path.write_text(text[: text.index('"annotations": [') + 16] + "]" + text[text.index(',\n"images"') :])
    bare = api.load_data_config(tmp_path / "set/dataset.yaml", [f"hydra.run.dir={tmp_path}/run"])
    found = api.describe_data(bare, QUIET).document["splits"]["train"]
    assert (found["objects"], found["images_without_objects"], found["side"]["p50"]) == (0, 10, None)


MODEL = ("model.model_name=st_yolodv2milli_actrelu_pt", "model.input_shape=[3, 64, 96]", "training.batch_size=4")


def test_the_preview_shows_the_samples_that_the_trainer_gets(tmp_path: Path) -> None:
    made = config(tmp_path, *MODEL, "training.epochs=3", "dataset.num_workers=1")
    result = api.preview_data(made, QUIET, count=6, epoch=1)
    builder = Builder(config(tmp_path, *MODEL, "training.epochs=3", "dataset.num_workers=0"), load_plugins()[0])
    dataset = builder.dataset("train", None)
    spec = builder.spec(dataset.class_names)
    expected = []
    for batch in builder.train_loader(dataset, spec).epoch(1):
        for index, boxes, labels in zip(batch.indices, batch.targets.boxes, batch.targets.labels, strict=True):
            names = [spec.class_names[k] for k in labels if k >= 0]
            expected.append((index, names, boxes[labels >= 0].tolist()))
    shown = [
        (s["index"], [o["class"] for o in s["objects"]], [o["box_xyxy"] for o in s["objects"]])
        for s in result.document["samples"]
    ]
    assert shown == expected[:6]
    assert any(names for _, names, _ in shown)
    sheet = np.asarray(Image.open(result.document["picture"]))
    assert sheet.shape[1] == 4 * 360
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000


def test_a_small_sample_is_enlarged_with_its_boxes() -> None:
    image = np.random.default_rng(0).integers(0, 100, (60, 90, 3), np.uint8)
    drawn = _drawn(image, np.array([[10, 20, 50, 40]], np.float32), np.array([1]), ["x"])
    assert drawn.shape == (60 * 4 + 8, 90 * 4 + 8, 3)
    inner = drawn[4:-4, 4:-4]
    enlarged = image.repeat(4, 0).repeat(4, 1)
    rows, columns = np.nonzero((inner != enlarged).any(2))
    assert (rows.max(), columns.min(), columns.max()) == (40 * 4, 10 * 4, 50 * 4)
    assert (inner[120, 10 * 4] == PALETTE[1]).all()
    assert np.array_equal(inner[100:150, 60:180], enlarged[100:150, 60:180])


@pytest.mark.parametrize("mode", ["rgb", "bgr", "rgba", "grayscale"])
def test_the_networks_channels_are_shown_in_their_colours(mode: Any) -> None:
    channels = {"rgb": 3, "bgr": 3, "rgba": 4, "grayscale": 1}[mode]
    preprocess = Preprocess(5, 7, color_mode=mode, mean=(0.0,) * channels, std=(1.0,) * channels)
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    shown = as_rgb(to_tensor_layout(image, preprocess), preprocess)
    if mode == "grayscale":
        image = np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
    assert np.abs(shown.astype(int) - image).max() <= (1 if mode == "grayscale" else 0)


def test_a_preview_needs_a_model_and_an_epoch_that_exists(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="names no model"):
        api.preview_data(config(tmp_path), QUIET)
    with pytest.raises(ConfigError, match="no epoch 3"):
        api.preview_data(config(tmp_path, *MODEL, "training.epochs=3"), QUIET, epoch=3)
    with pytest.raises(ConfigError, match="0 samples"):
        api.preview_data(config(tmp_path, *MODEL), QUIET, count=0)
