"""Whether the objects are large enough for the model that shall learn them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from stdet.build import Builder
from stdet.data.preprocess import fitted
from stdet.data.source import DataSource
from stdet.datatools.findings import Finding, found
from stdet.datatools.splits import Columns
from stdet.errors import StdetError
from stdet.structures import Preprocess

SMALL_SHARE = 0.05
"""From this share of the objects of a class on, being too small is a warning."""
SMALL_SAMPLE = 20_000
"""Objects that are compared with a model's anchors; more of them are sampled."""


def check_assignment(source: DataSource, names: tuple[str, ...], columns: Columns) -> Iterator[Finding]:
    """D301 and D302: training objects that are hard to assign at the model's input size, as a share of each class."""
    builder = Builder(source.config, source.catalogue)
    try:
        spec = builder.spec(names)
        detector = builder.detector(spec)  # one without weights would cost 140 MiB more, for torch's meta device
    except StdetError as error:
        yield found("D302", "train", error.message, 1)
        return
    detector.use_training_options(source.config.options.training)
    rows = np.flatnonzero(~columns.ignore)
    if len(rows) > SMALL_SAMPLE:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:SMALL_SAMPLE])
    boxes = in_input(columns, rows, spec.preprocess)
    hard = detector.hard_to_assign(torch.from_numpy(boxes)).numpy()
    if not hard.any():
        return
    labels = columns.labels[rows]
    every, small = (np.bincount(part, minlength=len(names)) for part in (labels, labels[hard]))
    shares = {name: float(s / e) for name, s, e in zip(names, small, every, strict=True) if e}
    worst = sorted(((share, name) for name, share in shares.items() if share), reverse=True)
    height, width = spec.preprocess.size
    sample = f" of a sample of {len(rows)}" if len(rows) == SMALL_SAMPLE else ""
    yield found(
        "D301",
        "train",
        f"{int(hard.sum())} objects ({hard.mean():.1%}){sample} are too small for {spec.model_name} at {height} x {width}",
        int(hard.sum()),
        [f"{name}: {share:.1%}" for share, name in worst],
        "warning" if worst[0][0] >= SMALL_SHARE else "info",
        share_per_class=shares,
    )


def in_input(columns: Columns, rows: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """float32 (len(rows), 4): boxes in pixels of the network's input, cut to it."""
    sizes, kind = np.unique(columns.sizes[columns.image[rows]], axis=0, return_inverse=True)
    boxes = np.zeros((len(rows), 4), np.float32)
    for number, (height, width) in enumerate(sizes.tolist()):
        _, geometry = fitted((height, width), preprocess)
        own = kind.ravel() == number
        boxes[own] = geometry.to_input(columns.boxes[rows[own]])
    return np.clip(boxes, 0, [preprocess.width, preprocess.height] * 2).astype(np.float32)
