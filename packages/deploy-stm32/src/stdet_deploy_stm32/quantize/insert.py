"""Lets onnxruntime's static quantizer place the Q/DQ nodes, with ranges that are known already."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from onnx import ModelProto
from onnxruntime.quantization import QDQQuantizer
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.quant_utils import ONNX_TYPE_TO_NP_TYPE
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from stdet.errors import QuantizationError
from stdet_deploy_stm32.quantize.options import TYPES, Override, Recipe, check_names
from stdet_deploy_stm32.quantize.surgery import initializers

OP_TYPES = tuple(
    sorted(
        {*QDQRegistry, *QLinearOpsRegistry}
        | {"Abs", "HardSigmoid", "HardSwish", "Max", "Min", "PRelu", "SpaceToDepth", "Sub", "Tanh"}
    )
)
"""Operators that get quantized: those onnxruntime knows, and those the NPU also runs in int8."""


def insert_qdq(model: ModelProto, ranges: dict[str, tuple[float, float]], recipe: Recipe) -> ModelProto:
    """The QDQ form of a prepared float `model`.

    Args:
        ranges: (low, high) by activation.

    Raises:
        QuantizationError: an option names a node, operator or tensor that isn't there, or onnxruntime refuses.
    """
    _check_names(model, ranges, recipe)
    work = ModelProto()
    work.CopyFrom(model)
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # onnxruntime logs to the root logger about things that are checked here
    try:
        quantizer = QDQQuantizer(
            work,
            per_channel=recipe.per_channel,
            reduce_range=False,
            weight_qType=TYPES[recipe.weight_type],
            activation_qType=TYPES[recipe.activation_type],
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=list(recipe.nodes),
            nodes_to_exclude=list(recipe.exclude),
            op_types_to_quantize=list(recipe.op_types or OP_TYPES),
            extra_options=_extra_options(recipe),
        )
        return quantizer.quantize_model()
    except (ValueError, TypeError, RuntimeError, KeyError, AssertionError) as error:
        raise QuantizationError(f"onnxruntime's quantizer refuses the model or the options: {error}") from error
    finally:
        logging.disable(before)


def _check_names(model: ModelProto, ranges: dict[str, tuple[float, float]], recipe: Recipe) -> None:
    node_names = {node.name for node in model.graph.node}
    check_names("onnx_quant_parameters.nodes_to_quantize", recipe.nodes, node_names)
    check_names("onnx_quant_parameters.nodes_to_exclude", recipe.exclude, node_names)
    for op_type in recipe.op_types:
        if op_type not in OP_TYPES:
            raise QuantizationError(
                f"quantization.onnx_quant_parameters.op_types_to_quantize: `{op_type}` can't be quantized",
                f"allowed: {', '.join(OP_TYPES)}",
            )
    check_names(
        "onnx_extra_options.weights_tensor_override", (o.tensor for o in recipe.weight_overrides), initializers(model)
    )
    check_names(
        "onnx_extra_options.activations_tensor_override", (o.tensor for o in recipe.activation_overrides), ranges
    )


def _extra_options(recipe: Recipe) -> dict[str, Any]:
    overrides = {o.tensor: _ort_override(o, recipe.weight_type) for o in recipe.weight_overrides}
    overrides |= {o.tensor: _ort_override(o, recipe.activation_type) for o in recipe.activation_overrides}
    return {
        "WeightSymmetric": recipe.weight_symmetric,
        "ActivationSymmetric": recipe.activation_symmetric,
        "QuantizeBias": recipe.quantize_bias,
        "ForceQuantizeNoInputCheck": True,
        "TensorQuantOverrides": overrides,
    }


def _ort_override(override: Override, default_type: str) -> list[dict[str, Any]]:
    """onnxruntime's spelling: one dictionary a channel, or one for the tensor."""
    quant_type = TYPES[override.quant_type or default_type]
    entry: dict[str, Any] = {"quant_type": quant_type}
    if override.axis is not None:
        entry["axis"] = override.axis
    if override.scale is None or override.zero_point is None:
        return [entry]
    kind = ONNX_TYPE_TO_NP_TYPE[quant_type.tensor_type]
    return [
        entry | {"scale": np.array(scale, np.float32), "zero_point": np.array(zero, kind)}
        for scale, zero in zip(override.scale, override.zero_point, strict=True)
    ]
