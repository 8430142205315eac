"""Whether another draw of calibration images would give other ranges."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
from onnx import ModelProto

from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.session import watching
from stdet_deploy_stm32.onnx_graph.surgery import float_activations, graph_inputs
from stdet_deploy_stm32.quantize.images import images

MAX_IMAGES = 64
REPLICATES = 100
SETTLED = 0.05
"""Share of a range that a bootstrap sample may miss on average."""
ENOUGH = 0.9
"""Share of the tensors whose ranges must be settled."""


def range_settling(model: ModelProto, calibration: CalibrationData) -> dict[str, Any]:
    """How much of each activation's range a bootstrap sample of the images misses (Efron, 1979).

    Looks at the smallest and largest value of each of the first `MAX_IMAGES` images. A sample drawn with replacement
    lacks about a third of the images; where that costs more than a few percent of a range, the range hangs on single
    images. Methods that cut outliers settle sooner than this says.

    Returns:
        `images`; `settled`, None with fewer than two images; `share_settled` of the tensors; `median_missed` share of
        the range; `worst`: up to five tensors with the share they miss.
    """
    lows, highs, names = _extremes(model, calibration)
    count = len(lows)
    if count < 2:
        return {"images": count, "settled": None}
    full = np.maximum(highs.max(0), 0) - np.minimum(lows.min(0), 0)
    rng = np.random.default_rng(0)
    missed = np.zeros(len(names))
    for _ in range(REPLICATES):
        drawn = rng.integers(0, count, count)
        seen = np.maximum(highs[drawn].max(0), 0) - np.minimum(lows[drawn].min(0), 0)
        missed += np.where(full > 0, 1 - seen / np.where(full > 0, full, 1), 0)
    missed /= REPLICATES
    share = float(np.mean(missed <= SETTLED))
    worst = np.argsort(-missed, kind="stable")[:5]
    return {
        "images": count,
        "settled": share >= ENOUGH,
        "share_settled": round(share, 4),
        "median_missed": round(float(np.median(missed)), 4),
        "worst": {names[i]: round(float(missed[i]), 4) for i in worst},
    }


def _extremes(model: ModelProto, calibration: CalibrationData) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(images, tensors) smallest and largest values, and the tensors' names."""
    name = graph_inputs(model)[0].name
    names = [value.name for value in float_activations(model) if value.name != name]
    session = watching(model, names)
    lows, highs = [], []
    for image in islice(images(model, calibration), MAX_IMAGES):
        found = session.run(names, {name: image})
        lows.append([float(array.min()) for array in found])
        highs.append([float(array.max()) for array in found])
        del found  # before the next image's
    return np.array(lows).reshape(len(lows), -1), np.array(highs).reshape(len(highs), -1), names
