"""Our readers and recipes keep the contracts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stdet.interfaces.dataset import DatasetRequest
from stdet.testing import DatasetContract, TransformContract
from stdet_datasets.options import SyntheticOptions, YoloxAugmentation
from stdet_datasets.synthetic import SyntheticDataset, write_coco

SMALL = SyntheticOptions(num_images=12, image_size=64)


class TestSynthetic(DatasetContract):
    name = "synthetic"

    def request(self, tmp_path: Path) -> DatasetRequest:
        return DatasetRequest("train", options=SMALL)


class TestCoco(DatasetContract):
    name = "coco"

    def request(self, tmp_path: Path) -> DatasetRequest:
        path = write_coco(SyntheticDataset(DatasetRequest("train", options=SMALL)), tmp_path, "train")
        return DatasetRequest("train", tmp_path / "train", path)


class TestFolder(DatasetContract):
    name = "folder"

    def request(self, tmp_path: Path) -> DatasetRequest:
        write_coco(SyntheticDataset(DatasetRequest("train", options=SMALL)), tmp_path, "train")
        return DatasetRequest("prediction", tmp_path / "train")


class TestVoc(DatasetContract):
    name = "voc"

    def request(self, tmp_path: Path) -> DatasetRequest:
        dataset = SyntheticDataset(DatasetRequest("train", options=SMALL))
        write_coco(dataset, tmp_path, "train")
        folder = tmp_path / "Annotations"
        folder.mkdir()
        for index in range(len(dataset)):
            a = dataset.annotation(index)
            objects = "".join(
                f"<object><name>{dataset.class_names[label]}</name><bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin>"
                f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
                for (x1, y1, x2, y2), label in zip(a.boxes, a.labels, strict=True)
            )
            (folder / f"{a.image_id:012d}.xml").write_text(f"<annotation>{objects}</annotation>")
        return DatasetRequest("train", tmp_path / "train", folder)


class TestYolo(DatasetContract):
    name = "yolo"

    def request(self, tmp_path: Path) -> DatasetRequest:
        dataset = SyntheticDataset(DatasetRequest("train", options=SMALL))
        write_coco(dataset, tmp_path, "train")
        for index in range(len(dataset)):
            a = dataset.annotation(index)
            shares = np.hstack([(a.boxes[:, :2] + a.boxes[:, 2:]) / 2, a.boxes[:, 2:] - a.boxes[:, :2]]) / a.width
            rows = zip(a.labels.tolist(), shares.tolist(), strict=True)
            text = "".join(f"{label} {' '.join(map(str, box))}\n" for label, box in rows)
            (tmp_path / "train" / f"{a.image_id:012d}.txt").write_text(text)
        (tmp_path / "train" / "classes.txt").write_text("\n".join(dataset.class_names))
        return DatasetRequest("train", tmp_path / "train")


class TestYolox(TransformContract):
    name = "yolox"


class TestSsd(TransformContract):
    name = "ssd"


def test_sizes_are_drawn_around_the_input_in_steps_of_32_and_keep_its_shape() -> None:
    assert YoloxAugmentation().sizes((320, 320)) is None
    rng = np.random.default_rng(0)
    draw = YoloxAugmentation(multiscale_range=1).sizes((32, 64))
    assert draw is not None
    assert {draw(rng) for _ in range(50)} == {(32, 64), (64, 128)}
    wins = YoloxAugmentation(multiscale_range=5, random_size=(2, 3)).sizes((320, 320))
    assert wins is not None
    assert {wins(rng) for _ in range(50)} == {(64, 64), (96, 96)}
