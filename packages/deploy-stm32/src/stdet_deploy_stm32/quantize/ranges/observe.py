"""Runs the float model over the calibration images and watches its activations, one image at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.onnx_graph.session import watching
from stdet_deploy_stm32.onnx_graph.surgery import float_activations, graph_inputs, producers
from stdet_deploy_stm32.quantize.images import images
from stdet_deploy_stm32.quantize.ranges.methods import FromHistogram, MinMax, Observer

_CARRIERS = frozenset({"Concat", "Flatten", "Gather", "Reshape", "Sigmoid", "Slice", "Softmax", "Split", "Squeeze",
                       "Transpose", "Unsqueeze"})  # fmt: skip


def border_tensors(model: ModelProto) -> set[str]:
    """The input, the outputs, and what only moves or squashes on its way to an output.

    A detector's answers are rare values in tensors that are almost empty (one score in thousands isn't 0), so a method
    that gives up outliers for the sake of the many would give up the detections.
    """
    writers = producers(model)
    border = {value.name for value in graph_inputs(model)}
    waiting = [value.name for value in model.graph.output]
    while waiting:
        name = waiting.pop()
        border.add(name)
        writer = writers.get(name)
        if writer is not None and writer.op_type in _CARRIERS:
            waiting += writer.input
    return border


def tensor_ranges(
    model: ModelProto, data: CalibrationData, method: Callable[[], Observer], progress: Progress | None = None
) -> dict[str, tuple[float, float]]:
    """(low, high) of each float activation of `model`, as `method` sees them over all images.

    Border tensors (see `border_tensors`) keep their whole range when `method` would cut outliers. Holds one image's
    activations and the observers, however many images there are.

    Raises:
        QuantizationError: unusable images (see `images`), or an activation that isn't finite.
    """
    input_name = graph_inputs(model)[0].name
    names = [value.name for value in float_activations(model) if value.name != input_name]
    session = watching(model, names)
    uncut = border_tensors(model) if isinstance(method(), FromHistogram) else set()
    observers = {name: MinMax() if name in uncut else method() for name in (input_name, *names)}
    for index, image in enumerate(images(model, data)):
        values = session.run(names, {input_name: image})
        for name, value in zip((input_name, *names), (image, *values), strict=True):
            _observe(observers[name], name, value)
        del values, value
        if progress is not None:
            progress(index + 1, data.count)
    return {name: observer.range() for name, observer in observers.items()}


def _observe(observer: Observer, name: str, values: np.ndarray) -> None:
    if not np.isfinite(values.min()) or not np.isfinite(values.max()):
        raise QuantizationError(
            f"activation `{name}` isn't finite on a calibration image",
            "the float model itself is broken; check it first",
        )
    observer.update(values)
