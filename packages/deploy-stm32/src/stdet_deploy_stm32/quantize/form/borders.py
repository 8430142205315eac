"""Real integer types at the model's input and outputs, instead of float tensors that are quantized inside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from stdet.errors import QuantizationError
from stdet_deploy_stm32.onnx_graph.surgery import (
    add_constant,
    consumers,
    graph_inputs,
    initializers,
    producers,
    prune,
    redirect,
    sort_nodes,
)

_NUMPY = {"int8": np.dtype(np.int8), "uint8": np.dtype(np.uint8)}
_ONNX = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8}


@dataclass(frozen=True)
class Affine:
    """`real = scale * (quantized - zero_point)`; the type is the zero point's.

    Attributes:
        scale: float32 scalar.
        zero_point: integer scalar array.
    """

    scale: np.ndarray
    zero_point: np.ndarray

    def as_type(self, kind: np.dtype) -> Affine:
        """The same real range in 8 bits of type `kind`; exact for an 8-bit original."""
        old, new = np.iinfo(self.zero_point.dtype), np.iinfo(kind)
        steps = (old.max - old.min) / (new.max - new.min)
        zero = round((int(self.zero_point) - old.min) / steps) + new.min
        return Affine(np.array(self.scale * steps, np.float32), np.array(zero, kind))


def set_input_type(model: ModelProto, kind: str) -> None:
    """Make the input `int8` or `uint8`; `float` leaves it. The input keeps its name.

    Raises:
        QuantizationError: the input isn't quantized inside.
    """
    if kind == "float":
        return
    (value,) = graph_inputs(model)
    quantize = next((n for n in consumers(model).get(value.name, []) if n.op_type == "QuantizeLinear"), None)
    if quantize is None:
        raise QuantizationError(
            f"quantization_input_type is {kind}, but input `{value.name}` feeds an operator that isn't quantized",
            "use quantization_input_type: float, or quantize the first operator",
        )
    inner = affine(model, quantize)
    outer = inner.as_type(_NUMPY[kind])
    real = f"{value.name}_dequantized"
    redirect(model, value.name, real)
    model.graph.node.insert(0, _node(model, "DequantizeLinear", value.name, real, outer))
    if inner.zero_point.dtype == outer.zero_point.dtype:
        redirect(model, quantize.output[0], value.name)  # the same numbers: no need to quantize again
    value.type.tensor_type.elem_type = _ONNX[kind]
    prune(model)


def set_output_types(model: ModelProto, kind: str) -> None:
    """Make all outputs `int8` or `uint8`; `float` leaves them. They keep their names.

    Raises:
        QuantizationError: an output comes from an operator that isn't quantized.
    """
    if kind == "float":
        return
    for value in model.graph.output:
        dequantize = producers(model).get(value.name)
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            raise QuantizationError(
                f"quantization_output_type is {kind}, but output `{value.name}` comes from an operator that isn't "
                "quantized",
                "use quantization_output_type: float, or quantize the last operators",
            )
        inner = affine(model, dequantize)
        outer = inner.as_type(_NUMPY[kind])
        quantized, real = dequantize.input[0], f"{value.name}_dequantized"
        redirect(model, value.name, real)
        dequantize.output[0] = real
        if inner.zero_point.dtype == outer.zero_point.dtype:
            producers(model)[quantized].output[0] = value.name
            redirect(model, quantized, value.name)
        else:
            model.graph.node.append(_node(model, "QuantizeLinear", real, value.name, outer))
        value.type.tensor_type.elem_type = _ONNX[kind]
    prune(model)
    sort_nodes(model)


def affine(model: ModelProto, node: NodeProto) -> Affine:
    """Scale and zero point of a per-tensor Q or DQ node."""
    constants = initializers(model)
    scale = numpy_helper.to_array(constants[node.input[1]])
    zero = numpy_helper.to_array(constants[node.input[2]])
    return Affine(np.array(scale.item(), np.float32), np.array(zero.item(), zero.dtype))


def border_types(model: ModelProto) -> dict[str, dict[str, object]]:
    """For each input and output: its type, and scale and zero point where it is an integer."""
    report: dict[str, dict[str, object]] = {}
    readers, writers = consumers(model), producers(model)
    for value, node in (
        *((v, next(iter(readers.get(v.name, [])), None)) for v in graph_inputs(model)),
        *((v, writers.get(v.name)) for v in model.graph.output),
    ):
        entry: dict[str, object] = {
            "type": helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name,
            "shape": [dim.dim_value for dim in value.type.tensor_type.shape.dim],
        }
        if node is not None and entry["type"] != "float32":
            a = affine(model, node)
            entry |= {"scale": float(a.scale), "zero_point": int(a.zero_point)}
        report[value.name] = entry
    return report


def _node(model: ModelProto, op_type: str, source: str, result: str, a: Affine) -> NodeProto:
    scale = add_constant(model, f"{result}_scale", np.array(a.scale, np.float32))
    zero = add_constant(model, f"{result}_zero_point", a.zero_point)
    return helper.make_node(op_type, [source, scale, zero], [result], name=f"{result}_{op_type}_border")
