"""Runs the float model over the calibration images and watches its activations, one image at a time."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto
from onnxruntime import InferenceSession

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.host import new_session
from stdet_deploy_stm32.quantize.ranges import FromHistogram, MinMax, Observer
from stdet_deploy_stm32.quantize.surgery import graph_inputs, producers

SWEEP_IMAGES = 32
"""Calibration images, spread over all, that layers are adjusted with; each position of a tensor counts."""


def float_activations(model: ModelProto) -> list[ValueInfoProto]:
    """Float tensors that depend on the input, the input included; needs inferred shapes."""
    values = {v.name: v for v in (*graph_inputs(model), *model.graph.value_info, *model.graph.output)}
    names = [v.name for v in graph_inputs(model)] + [name for node in model.graph.node for name in node.output]
    return [values[n] for n in names if n in values and values[n].type.tensor_type.elem_type == TensorProto.FLOAT]


def images(model: ModelProto, data: CalibrationData) -> Iterator[np.ndarray]:
    """The calibration images, each checked against the model's input.

    Raises:
        QuantizationError: an image of another shape or type, or values that aren't finite.
    """
    (value,) = graph_inputs(model)
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    for index, image in enumerate(data.batches()):
        if image.shape != shape or image.dtype != np.float32:
            raise QuantizationError(
                f"calibration image {index} of {data.source} is {image.dtype} {image.shape}; the model's input "
                f"`{value.name}` is float32 {shape}",
                "preprocess the images with the model's own size and colour order",
            )
        if not np.isfinite(image).all():
            raise QuantizationError(f"calibration image {index} of {data.source} holds values that are not finite")
        yield image


def subset(data: CalibrationData, count: int) -> CalibrationData:
    """`count` images of `data`, spread evenly; all when it has fewer."""
    if count >= data.count:
        return data
    return dataclasses.replace(data, image=lambda index: data.image(-(-index * data.count // count)), count=count)


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


def watching(model: ModelProto, names: Sequence[str]) -> InferenceSession:
    """A session whose outputs are the tensors `names`; it computes what is written, node by node, on all cores."""
    watched = ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return new_session(watched.SerializeToString(), os.cpu_count() or 1, optimize=False)


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
