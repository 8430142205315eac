"""What the network is fed in training, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stdet.build import Builder
from stdet.errors import ConfigError
from stdet.evaluation.plots import contact_sheet, draw_boxes, enlarged, save_image
from stdet.interfaces.reporter import Reporter
from stdet.structures import Preprocess

SHEET_WIDTH = 360
"""Pixels that a sample is wide on the sheet; smaller ones are enlarged before their boxes are drawn."""


def preview(builder: Builder, count: int, epoch: int, path: Path, reporter: Reporter) -> dict[str, Any]:
    """Draw the first `count` training samples of `epoch` (from 0), straight from the trainer's loader, into `path`.

    Returns:
        Which samples they are, JSON-able.

    Raises:
        ConfigError: the training has no such epoch.
        StdetError: no model is named, or the data can't be read.
    """
    epochs = builder.config.training.epochs
    if not 0 <= epoch < epochs:
        raise ConfigError(f"there is no epoch {epoch}", f"epochs of this training: 0 to {epochs - 1}")
    if count < 1:
        raise ConfigError(f"a preview of {count} samples is none", "ask for at least 1")
    dataset = builder.dataset("train", builder.class_names())
    spec = builder.spec(dataset.class_names)
    samples: list[dict[str, Any]] = []
    pictures = []
    for batch in builder.train_loader(dataset, spec).epoch(epoch):
        rows = zip(batch.indices, batch.images.numpy(), batch.targets.boxes, batch.targets.labels, strict=True)
        for index, pixels, boxes, labels in rows:
            own = labels >= 0
            names = [spec.class_names[label] for label in labels[own].tolist()]
            pictures.append(_drawn(as_rgb(pixels, spec.preprocess), boxes[own].numpy(), labels[own].numpy(), names))
            source = dataset.annotation(index).path
            samples.append(
                {
                    "index": index,
                    "image": str(source) if source else None,
                    "height": pixels.shape[1],
                    "width": pixels.shape[2],
                    "objects": [{"class": n, "box_xyxy": b} for n, b in zip(names, boxes[own].tolist(), strict=True)],
                }
            )
            reporter.progress("preview", min(len(pictures), count), count)
            if len(pictures) == count:
                break
        if len(pictures) == count:
            break
    save_image(path, contact_sheet(pictures, width=SHEET_WIDTH))
    return {"format": "stdet.data-preview/1", "picture": str(path), "epoch": epoch, "samples": samples}


def as_rgb(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """uint8 (C, h, w) in the network's channel order to uint8 (h, w, 3) RGB; transparency is not shown."""
    image = pixels.transpose(1, 2, 0)
    if preprocess.color_mode == "grayscale":
        return np.repeat(image, 3, axis=2)
    return np.ascontiguousarray(image[..., ::-1] if preprocess.color_mode == "bgr" else image[..., :3])


def _drawn(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, names: list[str]) -> np.ndarray:
    factor = max(1, round(SHEET_WIDTH / image.shape[1]))
    drawn = draw_boxes(enlarged(image, factor), boxes * factor, labels, names)
    return cv2.copyMakeBorder(drawn, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=(255, 255, 255))
