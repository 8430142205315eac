"""Predictions on folders, images, videos and cameras, in every form; and what is none of these is told."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from stdet import api
from stdet.errors import StdetError
from stdet.export.onnx import export_onnx
from stdet.interfaces.reporter import SilentReporter
from stdet.plugins.loader import load_plugins

MODEL = "st_yolodv2milli_actrelu_pt"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of ours, as ONNX."""
    torch.manual_seed(0)
    catalogue = load_plugins()[0]
    family = catalogue.family(MODEL)
    detector = catalogue.build(
        "models", MODEL, family.spec(MODEL, ("disc", "square"), family.preprocess.with_size(64, 64))
    )
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    export_onnx(detector, path, provenance={})
    return path


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 255, (48, 80, 3), np.uint8)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f"{index}.png"), picture(index))
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (80, 48))
    for index in range(5):
        writer.write(picture(index))
    writer.release()
    return path


Predict = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture
def predict(model: Path, tmp_path: Path) -> Predict:
    """Predicts on a source; the folder of the predictions, and what the record says."""

    def run(source: object, *keys: str) -> tuple[Path, dict[str, Any]]:
        given = [f"dataset.prediction_path={source}", f"hydra.run.dir={tmp_path / 'run'}", *keys]
        given += [
            "postprocessing.confidence_thresh=0.0",
            "postprocessing.max_detection_boxes=4",
            "training.batch_size=2",
        ]
        result = api.run(api.load_command(model, given, "prediction"), SilentReporter())
        return result.run_dir / "predictions", result.document["stages"]["predict"]

    return run


def test_a_folder_is_written_in_every_form_that_was_asked_for(images: Path, predict: Predict) -> None:
    folder, said = predict(images, "prediction.outputs=[pictures, json, coco, csv, jsonl]")
    assert said["images"] == 3
    assert sorted(p.name for p in folder.glob("*.jpg")) == ["0_predict.jpg", "1_predict.jpg", "2_predict.jpg"]
    entries = json.loads((folder / "predictions.json").read_text())["images"]
    assert [Path(e["image"]).name for e in entries] == ["0.png", "1.png", "2.png"]
    assert [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()] == entries
    boxes = [[e["image"], d["class"], d["score"], *d["box_xyxy"]] for e in entries for d in e["detections"]]
    assert len(boxes) == 12
    with (folder / "predictions.csv").open() as file:
        rows = [
            [r["image"], r["class"], *(float(r[k]) for k in ("score", "x1", "y1", "x2", "y2"))]
            for r in csv.DictReader(file)
        ]
    assert rows == boxes
    coco = json.loads((folder / "predictions_coco.json").read_text())
    names = {c["id"]: c["name"] for c in coco["categories"]}
    files = {i["id"]: i["file_name"] for i in coco["images"]}
    for found, box in zip(coco["annotations"], boxes, strict=True):
        x, y, width, height = found["bbox"]
        assert [names[found["category_id"]], found["score"], x, y] == box[1:5]
        assert (x + width, y + height) == pytest.approx(tuple(box[5:]))
        assert files[found["image_id"]] == Path(box[0]).name
    only, _ = predict(images, "prediction.outputs=[csv]", "prediction.max_frames=2")
    assert [p.name for p in only.iterdir()] == ["predictions.csv"]
    assert len((only / "predictions.csv").read_text().splitlines()) == 1 + 8


def test_one_image_is_predicted_as_in_its_folder(images: Path, predict: Predict) -> None:
    alone = json.loads((predict(images / "1.png")[0] / "predictions.json").read_text())["images"]
    among = json.loads((predict(images)[0] / "predictions.json").read_text())["images"]
    assert [e["image"] for e in alone] == [among[1]["image"]]
    for one, other in zip(alone[0]["detections"], among[1]["detections"], strict=True):
        assert one["class"] == other["class"]
        assert one["box_xyxy"] == pytest.approx(other["box_xyxy"], abs=0.01)


def test_a_video_becomes_an_annotated_video(video: Path, predict: Predict) -> None:
    folder, said = predict(video)
    assert said["images"] == 5
    film = cv2.VideoCapture(str(folder / "film_predict.mp4"))
    frames = []
    while (pixels := film.read()[1]) is not None:
        frames.append(pixels)
    assert [len(frames), frames[0].shape, film.get(cv2.CAP_PROP_FPS)] == [5, (48, 80, 3), 10]
    entries = json.loads((folder / "predictions.json").read_text())["images"]
    assert [e["frame"] for e in entries] == [0, 1, 2, 3, 4]
    assert sorted(p.name for p in folder.iterdir()) == ["film_predict.mp4", "predictions.json"]
    assert predict(video, "prediction.max_frames=2")[1]["images"] == 2


def test_a_camera_is_looked_at_until_it_is_stopped(
    video: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    capture = cv2.VideoCapture

    def camera(number: object) -> Any:
        opened.append(number)
        return capture(str(video))

    monkeypatch.setattr(cv2, "VideoCapture", camera)
    folder, said = predict(0, "prediction.max_frames=3")
    assert (opened, said["images"]) == ([0], 3)
    assert (folder / "camera_0_predict.mp4").is_file()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nothing.jpg", "there is nothing at"),
        ("empty", "holds no image"),
        ("text.jpg", "neither an image nor a video"),
        ("cut.avi", "neither an image nor a video"),
        ("63", "no camera 63"),
    ],
)
def test_what_can_not_be_looked_at_is_told(
    source: str, said: str, tmp_path: Path, video: Path, predict: Predict
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.avi").write_bytes(video.read_bytes()[:300])
    with pytest.raises(StdetError, match=said) as caught:
        predict(source if source == "63" else tmp_path / source)
    assert caught.value.hint
