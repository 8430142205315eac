"""Brings QDQ models, also those of other tools, into the form that `check.check_form` proves, without changing a value
by more than a bias rounds."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from stdet_deploy_stm32.onnx_graph.surgery import (
    add_constant,
    consumers,
    graph_inputs,
    initializers,
    opset,
    producers,
    prune,
)
from stdet_deploy_stm32.onnx_graph.view import QDQ
from stdet_deploy_stm32.quantize.form.biases import BIASED, bias_scale, store_bias

_TOOL_METADATA = ("onnx.infer", "onnx.quant.pre_process")


def rewrite_into_form(model: ModelProto, int32_bias: bool = True) -> None:
    """Rewrite `model` in place: standard-domain Q/DQ, int8 instead of uint8 inside, weights stored as integers, int32
    biases, no operator set imported that no node uses.

    What can't be brought into the form without changing what the model computes (asymmetric weights, float operators)
    stays, and `check_form` reports it.

    Args:
        int32_bias: False keeps float biases.
    """
    _standard_domain(model)
    _store_weights(model)
    _signed(model)
    if int32_bias:
        _quantize_biases(model)
    used = {node.domain for node in model.graph.node}
    for index in reversed(range(len(model.opset_import))):
        domain = model.opset_import[index].domain
        if domain not in ("", "ai.onnx") and domain not in used:
            del model.opset_import[index]
    for index in reversed(range(len(model.metadata_props))):
        if model.metadata_props[index].key in _TOOL_METADATA:
            del model.metadata_props[index]
    prune(model)


def _standard_domain(model: ModelProto) -> None:
    """8-bit Q/DQ exist in every operator set, 4- and 16-bit ones since 21."""
    eight = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32)
    constants = initializers(model)
    for node in model.graph.node:
        if node.op_type in QDQ and node.domain == "com.microsoft" and len(node.input) > 2:
            zero = constants.get(node.input[2])
            if opset(model) >= 21 or (zero is not None and zero.data_type in eight):
                node.domain = ""


def _store_weights(model: ModelProto) -> None:
    """`float constant -> Q -> DQ` becomes `integer constant -> DQ`."""
    constants = initializers(model)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in constants and set(node.input[1:]) <= constants.keys():
            weight, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
            zero = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else np.uint8(0)
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            limits = np.iinfo(zero.dtype)
            steps = np.rint(weight / _along(scale, weight.ndim, axis)) + _along(np.asarray(zero), weight.ndim, axis)
            stored = np.clip(steps, limits.min, limits.max).astype(zero.dtype)
            model.graph.initializer.append(numpy_helper.from_array(stored, node.output[0]))
            node.output[0] += "_unused"
    prune(model)


def _along(values: np.ndarray, ndim: int, axis: int) -> np.ndarray:
    """Scalars as they are, one value a channel shaped for broadcasting."""
    if values.ndim == 0:
        return values
    return values.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def _signed(model: ModelProto) -> None:
    """uint8 tensors inside the graph become int8: values and zero points move by 128, scales stay.

    A uint8 input or output of the model stays; a Q and DQ pair beside it does the conversion.
    """
    constants = initializers(model)
    border = {value.name for value in (*graph_inputs(model), *model.graph.output)}
    moved: dict[str, str] = {}
    for node in list(model.graph.node):
        if node.op_type not in QDQ or len(node.input) < 3 or node.input[2] not in constants:
            continue
        if constants[node.input[2]].data_type != TensorProto.UINT8:
            continue
        outside = node.output[0] if node.op_type == "QuantizeLinear" else node.input[0]
        if outside in border:
            _convert_at_border(model, node)
            continue
        for index in (0, 2):
            tensor = constants.get(node.input[index])
            if tensor is not None and tensor.data_type == TensorProto.UINT8:
                if tensor.name not in moved:
                    shifted = (numpy_helper.to_array(tensor).astype(np.int16) - 128).astype(np.int8)
                    moved[tensor.name] = add_constant(model, f"{tensor.name}_int8", shifted)
                node.input[index] = moved[tensor.name]
    for index in reversed(range(len(model.graph.value_info))):  # other tools note the types of inner tensors
        if model.graph.value_info[index].type.tensor_type.elem_type == TensorProto.UINT8:
            del model.graph.value_info[index]
    prune(model)


def _convert_at_border(model: ModelProto, node: NodeProto) -> None:
    """Put an int8 Q and DQ on the real-valued side of a DQ of a uint8 input, or of a Q to a uint8 output."""
    real = node.output[0] if node.op_type == "DequantizeLinear" else node.input[0]
    beside = consumers(model).get(real, []) if node.op_type == "DequantizeLinear" else [producers(model).get(real)]
    if all(other is not None and other.op_type in QDQ for other in beside):
        return
    zero = numpy_helper.to_array(initializers(model)[node.input[2]])
    signed = add_constant(model, f"{real}_zero_point_int8", (zero.astype(np.int16) - 128).astype(np.int8))
    narrow, again = f"{real}_int8", f"{real}_int8_dequantized"
    pair = [
        helper.make_node("QuantizeLinear", [real, node.input[1], signed], [narrow], name=f"{narrow}_QuantizeLinear"),
        helper.make_node(
            "DequantizeLinear", [narrow, node.input[1], signed], [again], name=f"{again}_DequantizeLinear"
        ),
    ]
    position = next(i for i, other in enumerate(model.graph.node) if other is node or other.name == node.name)
    if node.op_type == "DequantizeLinear":
        for reader in consumers(model).get(real, []):
            for index, name in enumerate(reader.input):
                if name == real:
                    reader.input[index] = again
        position += 1
    else:
        node.input[0] = again
    for offset, new in enumerate(pair):
        model.graph.node.insert(position + offset, new)


def _quantize_biases(model: ModelProto) -> None:
    """A float bias of a convolution or Gemm with quantized input and weight becomes int32, scale input x weight."""
    constants = initializers(model)
    for node in list(model.graph.node):
        if node.op_type not in BIASED or len(node.input) < 3 or not node.input[2]:
            continue
        bias, scale = constants.get(node.input[2]), bias_scale(model, node)
        if bias is not None and bias.data_type == TensorProto.FLOAT and scale is not None:
            store_bias(model, node, numpy_helper.to_array(bias).astype(np.float64) / scale, scale, bias.name)
