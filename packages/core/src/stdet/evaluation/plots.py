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
FONT = cv2.FONT_HERSHEY_SIMPLEX
LEGEND_PX = 24
SHEET_PX = 320
"""Width of an image on a contact sheet."""


TRUTH = (255, 255, 255)
"""RGB of ground truth."""
PAPER = (60, 60, 60)
"""RGB behind a legend."""
Rectangle = tuple[int, int, int, int]
"""x1, y1, x2, y2 of whole pixels."""


def draw_detections(
    image: np.ndarray,
    found: Detections,
    class_names: Sequence[str],
    truth: np.ndarray | None = None,
    least_width: int = 0,
) -> np.ndarray:
    """A copy of a uint8 (H, W, 3) RGB image with labelled boxes; `truth` (N, 4) xyxy is drawn thin and white.

    Args:
        least_width: a narrower image is enlarged to about this, so that its labels can be read; in pixels.
    """
    factor = max(1, round(least_width / image.shape[1]))
    canvas = enlarged(np.ascontiguousarray(image[..., :3]), factor)
    line = _line_width(canvas)
    for box in truth if truth is not None else ():
        x1, y1, x2, y2 = (round(float(v) * factor) for v in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), TRUTH, line)
    texts = [f"{class_names[int(k)]} {float(score):.2f}" for k, score in zip(found.labels, found.scores, strict=True)]
    return draw_boxes(canvas, found.boxes * factor, found.labels, texts)


def enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    """A copy of a uint8 (H, W, 3) image in which each pixel is a square of `factor` x `factor`."""
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)


def _line_width(image: np.ndarray) -> int:
    return max(1, round(min(image.shape[:2]) / 250))


def draw_boxes(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """A copy of a uint8 (H, W, 3) RGB image with boxes (N, 4) xyxy in the colours of their labels (N,), the first on top.

    The texts stand on top of all boxes, and beside each other where there is room.
    """
    canvas = image.copy()
    line, size = _line_width(canvas), max(0.35, min(canvas.shape[:2]) / 1000)
    corners = [(round(float(x1)), round(float(y1)), round(float(x2)), round(float(y2))) for x1, y1, x2, y2 in boxes]
    colours = [PALETTE[int(label) % len(PALETTE)] for label in labels]
    for (x1, y1, x2, y2), colour in reversed(list(zip(corners, colours, strict=True))):
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, line)
    sizes = [cv2.getTextSize(text, FONT, size, 1)[0] for text in texts]
    height, width = canvas.shape[:2]
    places = place_labels(corners, [(w + 2, h + 3) for w, h in sizes], width, height)
    for (x1, y1, x2, y2), colour, text in reversed(list(zip(places, colours, texts, strict=True))):
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, -1)
        cv2.putText(canvas, text, (x1 + 1, y2 - 3), FONT, size, TRUTH, 1, cv2.LINE_AA)
    return canvas


def place_labels(
    boxes: Sequence[Rectangle], sizes: Sequence[tuple[int, int]], width: int, height: int
) -> list[Rectangle]:
    """Where the label of each box stands: at one of its corners, inside the image, on no label of a box before it.

    Args:
        sizes: (width, height) of each label.
        width, height: of the image.
    """
    placed: list[Rectangle] = []
    for (x1, y1, x2, y2), (w, h) in zip(boxes, sizes, strict=True):
        corners = [(x, y) for y in (y1 - h, y2, y1, y2 - h) for x in (x1, x2 - w)]
        inside = [(max(min(x, width - w), 0), max(min(y, height - h), 0)) for x, y in corners]
        options = [(x, y, x + w, y + h) for x, y in inside]
        placed.append(next((one for one in options if not any(_meet(one, other) for other in placed)), options[0]))
    return placed


def _meet(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def with_legend(sheet: np.ndarray) -> np.ndarray:
    """A uint8 (H, W, 3) RGB sheet with a line below it that says what white boxes and coloured boxes are."""
    strip = np.full((LEGEND_PX, sheet.shape[1], 3), PAPER, np.uint8)
    x = 8
    for colour, text in ((TRUTH, "ground truth"), (PALETTE[0], "detection, a colour for each class, with its score")):
        cv2.rectangle(strip, (x, 6), (x + 18, LEGEND_PX - 7), colour, 1)
        cv2.putText(strip, text, (x + 26, LEGEND_PX - 8), FONT, 0.45, TRUTH, 1, cv2.LINE_AA)
        x += 26 + cv2.getTextSize(text, FONT, 0.45, 1)[0][0] + 20
    return np.concatenate([sheet, strip])


def save_image(path: Path, image: np.ndarray) -> None:
    """Write a uint8 (H, W, 3) RGB image as PNG or JPEG, by the suffix, atomically."""
    done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done
    write_bytes(path, lambda file: file.write(data.tobytes()))


def contact_sheet(images: Sequence[np.ndarray], columns: int = 4, width: int = SHEET_PX) -> np.ndarray:
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
        values = [row.get(name) or float("nan") for row in history]  # no zero on an axis of powers
        losses.plot(epochs, values, marker=".", label=name)
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
        axes.legend(loc="lower left")
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
