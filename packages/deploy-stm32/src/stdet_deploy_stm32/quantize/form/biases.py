"""int32 biases of quantized layers, with the scale input x weight."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from stdet_deploy_stm32.onnx_graph.surgery import add_constant, initializers, producers

BIASED = ("Conv", "ConvTranspose", "Gemm")
"""Operators with a bias."""
_INT32 = np.iinfo(np.int32)


def bias_scale(model: ModelProto, node: NodeProto) -> np.ndarray | None:
    """The scale of the input times the scale, or the scales, of the weight; None when one isn't quantized.

    Returns:
        float32, shape (), or (O,) when each output channel of the weight has its scale.
    """
    constants, writers = initializers(model), producers(model)
    sources = [writers.get(name) for name in node.input[:2]]
    scales = [
        numpy_helper.to_array(constants[s.input[1]])
        for s in sources
        if s is not None and s.op_type == "DequantizeLinear" and s.input[1] in constants
    ]
    return np.asarray(scales[0] * scales[1], np.float32) if len(scales) == 2 else None


def store_bias(model: ModelProto, node: NodeProto, steps: np.ndarray, scale: np.ndarray, name: str) -> None:
    """Give `node` an int32 bias of its own, behind a DequantizeLinear.

    Args:
        steps: floating (O,), bias in multiples of `scale`; rounded here.
        scale: float32, shape () or (O,).
    """
    stored = np.clip(np.rint(steps), _INT32.min, _INT32.max).astype(np.int32)
    inputs = [
        add_constant(model, f"{name}_int32", stored),
        add_constant(model, f"{name}_int32_scale", scale),
        add_constant(model, f"{name}_int32_zero_point", np.zeros(scale.shape, np.int32)),
    ]
    real = f"{inputs[0]}_dequantized"
    axis = {"axis": 0} if scale.ndim else {}
    dq = helper.make_node("DequantizeLinear", inputs, [real], name=f"{real}_DequantizeLinear", **axis)
    del node.input[2:]
    node.input.append(real)
    model.graph.node.insert(next(i for i, n in enumerate(model.graph.node) if n.name == node.name), dq)
