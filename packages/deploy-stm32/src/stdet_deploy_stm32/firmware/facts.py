"""A detector as firmware sees it: its tensors, how their rows become boxes, and which boxes are detections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper

from stdet.data.preprocess import normalize
from stdet.errors import ModelError
from stdet.structures import BoxCoding, DetectorSpec, Thresholds
from stdet_deploy_stm32.onnx_graph.surgery import graph_inputs

TYPES = (np.dtype(np.float32), np.dtype(np.int8), np.dtype(np.uint8))
"""What the C code reads and writes."""


@dataclass(frozen=True)
class Tensor:
    """An input or output of the network.

    Attributes:
        name, shape: as in the ONNX file.
        dtype: float32, int8 or uint8.
        scale, zero_point: value = (number - zero_point) * scale; 1 and 0 for float32.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float = 1.0
    zero_point: int = 0

    def quantize(self, values: np.ndarray) -> np.ndarray:
        """float32 values, of any shape, to numbers of `dtype`: rounded to the nearest, ties to even, and saturated."""
        if self.dtype == np.float32:
            return values.astype(np.float32)
        info = np.iinfo(self.dtype)
        rounded = np.rint(values / np.float32(self.scale)) + self.zero_point
        return np.clip(rounded, info.min, info.max).astype(self.dtype)

    def dequantize(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers of `dtype`, of any shape, to float32 values."""
        if self.dtype == np.float32:
            return numbers
        return (numbers.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True)
class Firmware:
    """Attributes:
    spec: of the model.
    coding: what its outputs mean.
    thresholds: which boxes are detections; `max_detections` is a number.
    input: float32, int8 or uint8 (1, C, H, W).
    outputs: in the order of the ONNX file.
    """

    spec: DetectorSpec
    coding: BoxCoding
    thresholds: Thresholds
    input: Tensor
    outputs: tuple[Tensor, ...]

    @property
    def ordered_outputs(self) -> tuple[int, ...]:
        """Indices into `outputs` in the order of the convention: by name if they have its names, else as they come."""
        names = [output.name for output in self.outputs]
        if set(names) == set(self.coding.output_names):
            return tuple(names.index(name) for name in self.coding.output_names)
        return tuple(range(len(names)))

    @property
    def scores_output(self) -> int:
        """Index of the output with scores."""
        return self.ordered_outputs[0]

    @property
    def boxes_output(self) -> int:
        """Index of the output with boxes; the same one, if there is one."""
        return self.ordered_outputs[-1]

    @property
    def rows(self) -> int:
        """Boxes before any selection."""
        return self.outputs[self.scores_output].shape[1]

    def priors_px(self) -> np.ndarray | None:
        """float32 (rows, 4): cx, cy, w, h, pixels of the input."""
        if self.coding.priors is None:
            return None
        height, width = self.spec.preprocess.size
        return self.coding.priors * np.array([width, height, width, height], np.float32)

    def input_table(self) -> np.ndarray:
        """(C, 256) of the input's type: what the network sees for a pixel value of 0..255."""
        pixels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (self.spec.preprocess.channels, 256, 1))
        return self.input.quantize(normalize(pixels[None], self.spec.preprocess)[0, :, :, 0])


def read_firmware(model: ModelProto, spec: DetectorSpec, coding: BoxCoding, thresholds: Thresholds) -> Firmware:
    """The facts of a model file.

    Raises:
        ModelError: no limit of detections (a device has no list that grows), several inputs, dynamic shapes, types that
            the C code doesn't read, or outputs that aren't what `coding` says.
    """
    inputs, outputs = tensors_of(model)
    wanted = (1, spec.preprocess.channels, *spec.preprocess.size)
    if len(inputs) != 1:
        raise ModelError(
            f"the model has {len(inputs)} inputs: {', '.join(tensor.name for tensor in inputs)}",
            "the C code feeds one picture; export a model with one input",
        )
    if inputs[0].shape != wanted:
        raise ModelError(
            f"the input `{inputs[0].name}` is {list(inputs[0].shape)}; the model's metadata says {list(wanted)}",
            "export the model again, so that file and metadata agree",
        )
    if thresholds.max_detections is None:
        raise ModelError("firmware needs a limit of boxes", "set postprocessing.max_detection_boxes")
    firmware = Firmware(spec, coding, thresholds, inputs[0], outputs)
    _check_outputs(firmware)
    return firmware


def tensors_of(model: ModelProto) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Inputs and outputs of a model file, in its order.

    Raises:
        ModelError: dynamic shapes, or types that the C code doesn't read.
    """
    inputs = [_tensor(model, value, "DequantizeLinear") for value in graph_inputs(model)]
    return inputs, tuple(_tensor(model, value, "QuantizeLinear") for value in model.graph.output)


def _tensor(model: ModelProto, value: ValueInfoProto, border: str) -> Tensor:
    dims = value.type.tensor_type.shape.dim
    if not dims or any(not dim.HasField("dim_value") for dim in dims):
        said = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
        raise ModelError(
            f"the shape of `{value.name}` is not static: {said}", "export the model with a fixed size and batch 1"
        )
    shape = tuple(int(dim.dim_value) for dim in dims)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    if dtype not in TYPES:
        raise ModelError(
            f"`{value.name}` is {dtype}; the C code reads float32, int8 and uint8",
            "set quantization.quantization_input_type and quantization_output_type",
        )
    if dtype == np.float32:
        return Tensor(value.name, shape, dtype)
    return Tensor(value.name, shape, dtype, *_affine(model, value.name, border))


def _affine(model: ModelProto, name: str, border: str) -> tuple[float, int]:
    """Scale and zero point of an integer input or output: of the (De)QuantizeLinear node there."""
    constants = {c.name: c for c in model.graph.initializer}
    constants |= {n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"}
    for node in model.graph.node:
        at_border = name in (node.input[:1] if border == "DequantizeLinear" else node.output)
        if node.op_type == border and at_border and set(node.input[1:]) <= constants.keys():
            scale, *zero = (numpy_helper.to_array(constants[n]) for n in node.input[1:])
            if scale.size == 1:
                return float(scale.reshape(())), int(zero[0].reshape(())) if zero else 0
    raise ModelError(
        f"`{name}` holds integers, but no {border} with one constant scale says what they mean",
        "quantize with stdet, or bring the file into its form: quantization.operating_mode: normalise",
    )


def _check_outputs(firmware: Firmware) -> None:
    """The convention's outputs in the convention's shapes, whatever their names."""
    spec, coding, outputs = firmware.spec, firmware.coding, firmware.outputs
    shapes = expected_shapes(spec, coding)
    if len(outputs) != len(shapes) or any(
        outputs[index].shape != shape for index, shape in zip(firmware.ordered_outputs, shapes, strict=True)
    ):
        found = ", ".join(f"{o.name} {list(o.shape)}" for o in outputs)
        wanted = ", ".join(f"{n} {list(s)}" for n, s in zip(coding.output_names, shapes, strict=True))
        raise ModelError(
            f"the model's outputs are {found}; {spec.model_name} with {spec.num_classes} classes has {wanted}",
            "the C code decodes these outputs only; export the model with stdet",
        )


def expected_shapes(spec: DetectorSpec, coding: BoxCoding) -> list[tuple[int, ...]]:
    """Shapes of the outputs in the order of the convention.

    Raises:
        ModelError: a convention that the C code doesn't decode.
    """
    height, width = spec.preprocess.size
    if coding.name == "yolox":
        rows = sum((height // stride) * (width // stride) for stride in spec.strides)
        return [(1, rows, 5 + spec.num_classes)]
    if coding.name == "ssd" and coding.priors is not None and None not in _variances(coding):
        return [(1, len(coding.priors), 1 + spec.num_classes), (1, len(coding.priors), 4)]
    raise ModelError(
        f"there is no C code for the box coding `{coding.name}` of {spec.model_name}",
        "the C code decodes yolox and ssd, the latter with priors and variances",
    )


def _variances(coding: BoxCoding) -> tuple[Any, ...]:
    return coding.center_variance, coding.size_variance


def elements(tensor: Tensor) -> int:
    """Numbers in a tensor."""
    return math.prod(tensor.shape)
