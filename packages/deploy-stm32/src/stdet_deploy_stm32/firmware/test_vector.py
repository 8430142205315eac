"""One picture, what the network is fed and answers, and the boxes in it: what a port is checked against."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stdet.data.preprocess import Geometry, normalize, prepare, resample
from stdet.structures import Detections
from stdet_deploy_stm32.firmware.facts import Firmware
from stdet_deploy_stm32.onnx_graph.session import new_session

LONGEST_SIDE = 640
"""Larger pictures are shrunk first, so that the folder stays small."""
FORMAT = "stdet.test-vector/1"

Detect = Callable[[Sequence[np.ndarray]], Detections]


@dataclass(frozen=True)
class TestVector:
    """Attributes:
    picture: uint8 (H, W, 3) RGB.
    source: where it came from.
    fed: the network's input, in its type.
    outputs: the network's, in the order and types of the file.
    detections: best first, pixels of the network's input, not clipped.
    geometry: the map between picture and input.
    """

    __test__ = False  # pytest takes classes with this name for tests

    picture: np.ndarray
    source: str
    fed: np.ndarray
    outputs: tuple[np.ndarray, ...]
    detections: Detections
    geometry: Geometry

    def boxes_in_picture(self) -> np.ndarray:
        """float32 (N, 4), xyxy, pixels of the picture, clipped to it."""
        height, width = self.picture.shape[:2]
        return np.clip(self.geometry.to_image(self.detections.boxes), 0, [width, height, width, height])


def make_test_vector(model: Path, firmware: Firmware, picture: np.ndarray, source: str, detect: Detect) -> TestVector:
    """Runs the model once, node by node as it is written.

    Args:
        picture: uint8 (H, W, 3) RGB.
        detect: detections in float outputs that stand in the convention's order.

    Raises:
        ArtifactError: onnxruntime can't run the model.
    """
    picture = _limited(picture)
    pixels, geometry = prepare(picture, firmware.spec.preprocess)
    fed = firmware.input.quantize(normalize(pixels[None], firmware.spec.preprocess))
    names = [output.name for output in firmware.outputs]
    outputs = tuple(new_session(model, optimize=False).run(names, {firmware.input.name: fed}))
    values = [firmware.outputs[i].dequantize(outputs[i]) for i in firmware.ordered_outputs]
    return TestVector(picture, source, fed, outputs, detect(values), geometry)


def _limited(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(picture)
    return resample(picture, max(1, round(height * scale)), max(1, round(width * scale)), "area")


def write_test_vector(vector: TestVector, firmware: Firmware, folder: Path) -> None:
    """`picture.ppm`, `input.bin`, `output_<i>.bin`, the boxes as `boxes.json`, and as main.c prints them, `boxes.txt`."""
    folder.mkdir()
    height, width = vector.picture.shape[:2]
    (folder / "picture.ppm").write_bytes(f"P6\n{width} {height}\n255\n".encode() + vector.picture.tobytes())
    (folder / "input.bin").write_bytes(vector.fed.tobytes())
    for index, output in enumerate(vector.outputs):
        (folder / f"output_{index}.bin").write_bytes(output.tobytes())
    boxes = _boxes(vector, firmware)
    document = {"format": FORMAT, "picture": vector.source, "width": width, "height": height, "boxes": boxes}
    (folder / "boxes.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = (
        " ".join([box["class"], f"{box['score']:.4f}", *(f"{v:.3f}" for v in box["picture_xyxy"])]) for box in boxes
    )
    (folder / "boxes.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _boxes(vector: TestVector, firmware: Firmware) -> list[dict[str, Any]]:
    found = vector.detections
    return [
        {
            "class": firmware.spec.class_names[label],
            "label": int(label),
            "score": float(score),
            "input_xyxy": [float(v) for v in box],
            "picture_xyxy": [float(v) for v in there],
        }
        for box, there, score, label in zip(
            found.boxes, vector.boxes_in_picture(), found.scores, found.labels, strict=True
        )
    ]
