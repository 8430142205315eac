"""A generated detection set: shapes on textured backgrounds. Seeded, endless, free of licences."""

from __future__ import annotations

import math
import zlib
from pathlib import Path

import cv2
import numpy as np

from stdet.artifacts import write_bytes
from stdet.errors import DataError
from stdet.interfaces.dataset import DatasetRequest, DetectionDataset, WriteRequest
from stdet.structures import Annotation
from stdet_datasets.options import SyntheticOptions
from stdet_datasets.writers import CocoWriter

SHAPES = ("disc", "square", "triangle", "ring", "star", "cross")
MIN_VISIBLE = 0.6
"""An object of which less than this share stays uncovered is not drawn at all."""
GRAIN = 12
"""Largest pixel noise, in steps of 255."""


class SyntheticDataset(DetectionDataset):
    """Images made on demand; image i of a split is the same on every machine and in every process.

    Backgrounds are smooth noise with gradients; shapes differ in size (18 to 45 % of the image), rotation, colour and
    shading, and may overlap a little. About one image in twelve has no object. Boxes are the painted extent.
    """

    def __init__(self, request: DatasetRequest) -> None:
        """Raises:
        DataError: a class name that isn't a shape, or none that is one where the names aren't the user's.
        """
        names = request.class_names or SHAPES
        unknown = [name for name in names if name not in SHAPES]
        if unknown and (request.guard_names or len(unknown) == len(names)):
            raise DataError(f"the synthetic set has no class {unknown[0]!r}", f"shapes: {', '.join(SHAPES)}")
        options = request.options if isinstance(request.options, SyntheticOptions) else SyntheticOptions()
        self.class_names = tuple(names)
        self._drawn = [names.index(shape) for shape in SHAPES if shape in names]  # whatever order the labels have
        self._keep_alpha = request.keep_alpha
        self._size = options.image_size
        self._max_objects = options.max_objects
        self._count = options.num_images if request.split == "train" else max(1, options.num_images // 4)
        self._salt = zlib.crc32(request.split.encode())
        self._last: tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]] | None = None

    def __len__(self) -> int:
        return self._count

    def annotation(self, index: int) -> Annotation:
        _, boxes, labels = self._made(index)
        sizes = boxes[:, 2:] - boxes[:, :2]
        ignore = np.zeros(len(labels), bool)
        return Annotation(index, None, self._size, self._size, boxes, labels, ignore, sizes.prod(1))

    def read_image(self, index: int) -> np.ndarray:
        image = self._made(index)[0]
        return cv2.cvtColor(image, cv2.COLOR_RGB2RGBA) if self._keep_alpha else image

    def _made(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `_make`, remembering the last one: an image is mostly asked for right after its boxes."""
        if self._last is None or self._last[0] != index:
            self._last = (index, self._make(index))
        return self._last[1]

    def _make(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """uint8 (S, S, 3) RGB image, float32 (N, 4) boxes, int64 (N,) labels."""
        rng = np.random.default_rng([self._salt, index])
        canvas = _background(rng, self._size)
        covered = np.zeros((self._size, self._size), bool)
        boxes, labels = [], []
        for _ in range(int(rng.integers(1, self._max_objects + 1)) if rng.random() > 1 / 12 else 0):
            label = self._drawn[int(rng.integers(len(self._drawn)))]
            mask = _shape_mask(rng, self.class_names[label], self._size)
            if not mask.any() or covered[mask].mean() > 1 - MIN_VISIBLE:
                continue
            mask &= ~covered  # later shapes lie behind earlier ones, so no box ever loses pixels
            covered |= mask
            _paint(rng, canvas, mask)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            labels.append(label)
        grain = rng.integers(-GRAIN, GRAIN + 1, canvas.shape, np.int16)
        image = np.clip(canvas + grain, 0, 255).astype(np.uint8)
        return image, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """float32 (size, size, 3): smooth noise at two scales over a random colour."""
    canvas = np.full((size, size, 3), rng.uniform(40, 200, 3), np.float32)
    for cells, strength in ((3, 40), (12, 20)):
        noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        canvas += cv2.resize(noise, (size, size), interpolation=cv2.INTER_LINEAR)
    return canvas


def _shape_mask(rng: np.random.Generator, name: str, size: int) -> np.ndarray:
    """bool (size, size): a shape somewhere, wholly inside the image."""
    radius = rng.uniform(0.09, 0.225) * size
    centre = rng.uniform(radius + 1, size - radius - 1, 2)
    turn = rng.uniform(0, 2 * math.pi)
    mask = np.zeros((size, size), np.uint8)
    if name in ("disc", "ring"):
        middle = (round(float(centre[0])), round(float(centre[1])))
        cv2.circle(mask, middle, round(radius), 1, -1)
        if name == "ring":
            cv2.circle(mask, middle, round(radius * 0.55), 0, -1)
    else:
        cv2.fillPoly(mask, [np.rint(_outline(name, radius, turn) + centre).astype(np.int32)], 1)
    return mask.astype(bool)


def _outline(name: str, radius: float, turn: float) -> np.ndarray:
    """float (N, 2): corners of a polygon around the origin."""
    if name == "cross":
        arm = radius / 3
        steps = [(arm, radius), (arm, arm), (radius, arm), (radius, -arm), (arm, -arm), (arm, -radius)]
        corners = np.array([*steps, *[(-x, -y) for x, y in steps]])
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        return corners @ rotation.T
    count, inner = {"square": (4, 1.0), "triangle": (3, 1.0), "star": (10, 0.45)}[name]
    angles = turn + 2 * math.pi * np.arange(count) / count
    radii = radius * np.where(np.arange(count) % 2, inner, 1.0)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


def _paint(rng: np.random.Generator, canvas: np.ndarray, mask: np.ndarray) -> None:
    """Fill `mask` with a colour that stands out from what it covers, shaded from left to right."""
    under = canvas[mask].mean(0)
    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - under).max() < 70:
        colour = rng.uniform(0, 255, 3)
    left, right = rng.uniform(0.8, 1.0, 2)
    shade = np.linspace(left, right, canvas.shape[1])
    canvas[mask] = colour * shade[np.nonzero(mask)[1], None]


def write_coco(dataset: DetectionDataset, folder: Path, split: str) -> Path:
    """Write any data set as COCO: `folder/<split>/<id>.png` and `folder/annotations/instances_<split>.json`.

    Returns:
        The annotation file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = CocoWriter(WriteRequest(folder, split, dataset.class_names))
    for index in range(len(dataset)):
        annotation = dataset.annotation(index)
        name = f"{annotation.image_id:012d}.png"
        _, data = cv2.imencode(".png", cv2.cvtColor(dataset.read_image(index), cv2.COLOR_RGB2BGR))
        write_bytes(writer.images_folder / name, lambda file, data=data: file.write(data.tobytes()))  # type: ignore[misc]
        writer.add(name, annotation)
    return writer.finish().annotations_path
