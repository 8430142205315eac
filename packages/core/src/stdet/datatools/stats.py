"""What is in a data set, as numbers and as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stdet.artifacts import atomic_path
from stdet.datatools.splits import Columns, OpenedSplit, columns_of
from stdet.evaluation.plots import PALETTE
from stdet.extras import need

PERCENTILES = (5, 25, 50, 75, 95)
SMALL, LARGE = 32.0**2, 96.0**2
"""Areas in pixels^2 that part COCO's small, medium and large."""
BARS = 40
"""Classes that have a bar in the picture; the commonest ones."""


def statistics(columns: Columns, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Counts and percentiles of a split, JSON-able. Objects marked `ignore` are counted, and left out of the rest.

    Lengths are in pixels of the original image; `side` is the square root of the box's area, `aspect_ratio` its width over
    its height. A percentile of nothing is None.
    """
    own = ~columns.ignore
    boxes, labels, image = columns.boxes[own], columns.labels[own], columns.image[own]
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    per_image = columns.per_image
    count = len(class_names)
    images_with = np.bincount(np.unique(image * np.int64(count) + labels) % max(1, count), minlength=count)
    sizes, times = np.unique(columns.sizes, axis=0, return_counts=True)
    commonest = [int(v) for v in sizes[times.argmax()]] if len(sizes) else None
    bands = np.bincount((columns.areas[own] >= SMALL).astype(int) + (columns.areas[own] >= LARGE), minlength=3)
    sides = np.sqrt(width * height)
    return {
        "images": len(columns.sizes),
        "images_without_objects": int((per_image == 0).sum()),
        "objects": len(labels),
        "ignored": int(columns.ignore.sum()),
        "objects_per_image": _spread(per_image),
        "side": _spread(sides),
        "aspect_ratio": _spread(width / height),
        "coco_sizes": dict(zip(("small", "medium", "large"), bands.tolist(), strict=True)),
        "image_sizes": {"different": len(sizes), "commonest_height_width": commonest},
        "classes": {
            name: {
                "objects": int((labels == k).sum()),
                "images": int(images_with[k]),
                "side": _spread(sides[labels == k]),
                "aspect_ratio": _spread(width[labels == k] / height[labels == k]),
            }
            for k, name in enumerate(class_names)
        },
    }


def _spread(values: np.ndarray) -> dict[str, float | None]:
    """Mean, extremes and percentiles."""
    if not len(values):
        return dict.fromkeys(("mean", "min", *(f"p{p}" for p in PERCENTILES), "max"))
    quantiles = np.percentile(values, PERCENTILES).tolist()
    return {
        "mean": float(values.mean()),
        "min": float(values.min()),
        **{f"p{p}": q for p, q in zip(PERCENTILES, quantiles, strict=True)},
        "max": float(values.max()),
    }


def describe(opened: list[OpenedSplit], picture: Path | None) -> dict[str, Any]:
    """The statistics of every split, and one picture of them at `picture`, if given."""
    columns = {split.name: columns_of(split.dataset) for split in opened}
    splits = {s.name: statistics(columns[s.name], s.dataset.class_names) for s in opened}
    if picture is not None:
        _plot(columns, splits, picture)
    faults = {split.name: split.faults.counts for split in opened}
    return {
        "format": "stdet.data-stats/1",
        "picture": str(picture) if picture is not None else None,
        "splits": splits,
        "faults": faults,
    }


def _plot(columns: Mapping[str, Columns], splits: Mapping[str, Any], path: Path) -> None:
    need("matplotlib", "drawing statistics")
    from matplotlib.figure import Figure

    totals: dict[str, int] = {}
    for split in splits.values():
        for name, numbers in split["classes"].items():
            totals[name] = totals.get(name, 0) + numbers["objects"]
    names = sorted(totals, key=lambda name: -totals[name])[:BARS]
    figure = Figure(figsize=(13, max(8, 5 + 0.2 * len(names))), layout="constrained")
    (classes, per_image), (sides, ratios) = figure.subplots(2, 2)
    every = np.concatenate([c.boxes[~c.ignore] for c in columns.values()])
    wide, high = np.maximum(every[:, 2:] - every[:, :2], 1e-3).T
    edges = {"side": _log_edges(np.sqrt(wide * high)), "ratio": _log_edges(wide / high)}
    for number, (split, numbers) in enumerate(splits.items()):
        colour = tuple(v / 255 for v in PALETTE[number % len(PALETTE)])
        place = np.arange(len(names)) + (number - (len(splits) - 1) / 2) * 0.8 / len(splits)
        known = numbers["classes"]
        counts = [known[name]["objects"] if name in known else 0 for name in names]
        classes.barh(place, counts, 0.8 / len(splits), label=split, color=colour)
        own = columns[split]
        boxes = own.boxes[~own.ignore]
        width, height = (boxes[:, 2:] - boxes[:, :2]).T
        _histogram(sides, np.sqrt(width * height), edges["side"], split, colour)
        _histogram(ratios, width / height, edges["ratio"], split, colour)
        most = max(s["objects_per_image"]["max"] or 0 for s in splits.values())
        bins = np.linspace(-0.5, most + 0.5, int(min(most + 2, 61)))
        _histogram(per_image, own.per_image, bins, split, colour)
    more = f" (the {BARS} commonest of {len(totals)})" if len(totals) > BARS else ""
    classes.set(yticks=range(len(names)), yticklabels=names, xlabel="objects", title=f"objects of each class{more}")
    classes.invert_yaxis()
    if totals and max(totals.values()) > 20 * (min(totals.values()) or 1):
        classes.set_xscale("log")
    per_image.set(xlabel="objects in an image", ylabel="share of the images", title="objects per image")
    sides.set(
        xscale="log", xlabel="pixels of the image", ylabel="share of the objects", title="square root of box area"
    )
    ratios.set(xscale="log", xlabel="width / height", ylabel="share of the objects", title="aspect ratio of boxes")
    for axes in (classes, per_image, sides, ratios):
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _log_edges(values: np.ndarray) -> np.ndarray:
    low, high = (values.min(), values.max()) if len(values) else (1, 2)
    return np.geomspace(low, max(high, low * 1.1), 49)


def _histogram(axes: Any, values: np.ndarray, edges: np.ndarray, label: str, colour: tuple[float, ...]) -> None:
    """Shares, so that splits of different sizes can be compared; what lies beyond the edges counts in the last bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    axes.stairs(counts / max(1, len(values)), edges, label=label, color=colour, fill=True, alpha=0.35)
    axes.stairs(counts / max(1, len(values)), edges, color=colour)
