"""The calibration images, checked, one at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from onnx import ModelProto

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData
from stdet_deploy_stm32.onnx_graph.surgery import graph_inputs


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
