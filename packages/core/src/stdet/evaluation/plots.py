"""Pictures: detections drawn on images, training curves, precision over recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from stdet.artifacts import atomic_path, write_bytes
from stdet.extras import need
from stdet.structures import Detections

PALETTE = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
)
"""RGB of the classes, in turn."""


def draw_detections(
    image: np.ndarray, found: Detections, class_names: Sequence[str], truth: np.ndarray | None = None
) -> np.ndarray:
    """A copy of a uint8 (H, W, 3) RGB image with labelled boxes; `truth` (N, 4) xyxy is drawn thin and white."""
    canvas = np.ascontiguousarray(image[..., :3]).copy()
    line = _line_width(canvas)
    for box in truth if truth is not None else ():
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (255, 255, 255), line)
    texts = [f"{class_names[int(k)]} {float(score):.2f}" for k, score in zip(found.labels, found.scores, strict=True)]
    return draw_boxes(canvas, found.boxes, found.labels, texts)


def _line_width(image: np.ndarray) -> int:
    return max(1, round(min(image.shape[:2]) / 250))


def draw_boxes(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """A copy of a uint8 (H, W, 3) RGB image with boxes (N, 4) xyxy in the colours of their labels (N,), the first on top."""
    canvas = image.copy()
    line = _line_width(canvas)
    for box, label, text in reversed(list(zip(boxes, labels, texts, strict=True))):
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        colour = PALETTE[int(label) % len(PALETTE)]
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, line)
        size = max(0.35, min(canvas.shape[:2]) / 1000)
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        top = max(y1 - height - 3, 0)
        cv2.rectangle(canvas, (x1, top), (x1 + width + 2, top + height + 3), colour, -1)
        cv2.putText(
            canvas, text, (x1 + 1, top + height), cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 1, cv2.LINE_AA
        )
    return canvas


def save_image(path: Path, image: np.ndarray) -> None:
    """Write a uint8 (H, W, 3) RGB image as PNG or JPEG, by the suffix, atomically."""
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    write_bytes(path, lambda file: file.write(data.tobytes()))


def contact_sheet(images: Sequence[np.ndarray], columns: int = 4, width: int = 320) -> np.ndarray:
    """uint8 RGB images (H, W, 3) side by side, each scaled to `width` pixels, in rows of `columns`, on white.

    Returns:
        uint8 (rows * height of the tallest, columns * width, 3); fewer columns when there are fewer images.
    """
    scaled = [
        cv2.resize(i, (width, max(1, round(i.shape[0] * width / i.shape[1]))), interpolation=cv2.INTER_AREA)
        for i in images
    ]
    height = max(i.shape[0] for i in scaled)
    rows = -(-len(scaled) // columns)
    sheet = np.full((rows * height, min(columns, len(scaled)) * width, 3), 255, np.uint8)
    for n, picture in enumerate(scaled):
        top, left = n // columns * height, n % columns * width
        sheet[top : top + picture.shape[0], left : left + width] = picture
    return sheet


def plot_history(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Losses and validation scores over the epochs, as PNG."""
    need("matplotlib", "drawing curves")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in history]
    for name in [n for n in history[0] if n == "total" or n.endswith("_loss")] if history else []:
        losses.plot(epochs, [row.get(name, float("nan")) for row in history], label=name)
    losses.set(xlabel="epoch", ylabel="training loss", yscale="log")
    losses.legend()
    for name in ("AP50", "AP"):
        points = [(row["epoch"], row[name]) for row in history if name in row]
        scores.plot([e for e, _ in points], [v for _, v in points], marker="o", label=f"validation {name}")
    scores.set(xlabel="epoch", ylabel="average precision", ylim=(0, 1))
    scores.legend()
    for axes in (losses, scores):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def plot_precision_recall(curves: Mapping[str, Sequence[float]], path: Path) -> None:
    """Precision over recall, as PNG: `curves` of an `EvaluationReport`, each labelled with the area under it."""
    need("matplotlib", "drawing curves")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for name, precision in curves.items():
        axes.plot(np.linspace(0, 1, len(precision)), precision, label=f"{name} = {np.mean(precision):.3f}")
    axes.set(xlabel="recall", ylabel="precision, mean over classes", xlim=(0, 1), ylim=(0, 1.02))
    if curves:
        axes.legend()
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
