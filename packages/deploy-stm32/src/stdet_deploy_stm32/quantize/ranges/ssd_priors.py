"""The ranges that an SSD's outputs need: those of the priors that can become detections.

Most priors are sure to be background, and training leaves their values free: on a MobileNetV1 that finds its objects with
offsets within 7 and logits within 5, they reached 117 and 86. One scale for all of them rounds the box of each detection to
steps of 0.7. Cut to the range of the others, they stay background.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto

from stdet.export.metadata import spec_of
from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.session import new_session
from stdet_deploy_stm32.onnx_graph.surgery import graph_inputs
from stdet_deploy_stm32.onnx_graph.tail import moved_to
from stdet_deploy_stm32.quantize.images import images, subset

IMAGES = 64
LEAST_SCORE = 1e-3
"""A prior below this is no detection, at any threshold that is of use."""

_SURE = -math.log(LEAST_SCORE)
"""A background's logit that much above all others keeps the prior below `LEAST_SCORE`, so one scale must reach as far."""

Ranges = dict[str, tuple[float, float]]


def is_ssd(model: ModelProto) -> bool:
    """Whether the metadata says that the outputs are an SSD's: logits (1, N, 1 + classes) and offsets (1, N, 4)."""
    spec = spec_of(model, "the model")
    return spec is not None and spec.box_coding == "ssd"


def answer_ranges(model: ModelProto, ranges: Ranges, data: CalibrationData) -> Ranges:
    """`ranges` of what only moves on its way to an output, cut to what the priors above `LEAST_SCORE` need.

    A prior that the cut itself would lift above it counts as one of them: softmax sees differences, so a large value that
    all classes share must stay.

    Args:
        model: float, with SSD's outputs: logits (1, N, 1 + classes), the background first, and offsets (1, N, 4).
        ranges: (low, high) by tensor, over all images.
    """
    logits_name, offsets_name = (value.name for value in model.graph.output)
    session = new_session(model.SerializeToString())
    name = graph_inputs(model)[0].name
    runs = [session.run([logits_name, offsets_name], {name: image}) for image in images(model, subset(data, IMAGES))]
    logits, offsets = [run[0][0] for run in runs], [run[1][0] for run in runs]
    count = [possible(one) for one in logits]
    while True:
        low, high = _limits(logits, count)
        limits = (min(low, -_SURE), max(high, _SURE))
        lifted = [~c & possible(one.clip(*limits)) for one, c in zip(logits, count, strict=True)]
        if not np.any(lifted):
            break
        count = [c | more for c, more in zip(count, lifted, strict=True)]
    cut: Ranges = {}
    for output, (low, high) in ((logits_name, limits), (offsets_name, _limits(offsets, count))):
        cut |= {n: (max(low, ranges[n][0]), min(high, ranges[n][1])) for n in moved_to(model, output) if n in ranges}
    return cut


def possible(logits: np.ndarray) -> np.ndarray:
    """bool (N,): the priors that can be detections, those whose best class but background has `LEAST_SCORE` or more.

    Args:
        logits: (N, 1 + classes), the background first.
    """
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers[:, 1:].max(1) >= LEAST_SCORE * powers.sum(1))


def _limits(values: list[np.ndarray], count: list[np.ndarray]) -> tuple[float, float]:
    """The range, with 0 in it, of the rows of each image's `values` that count."""
    chosen = [one[rows] for one, rows in zip(values, count, strict=True)]
    return min(float(c.min(initial=0.0)) for c in chosen), max(float(c.max(initial=0.0)) for c in chosen)
