"""Lets onnxruntime's static quantizer place the Q/DQ nodes, with ranges that are known already."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from onnx import ModelProto
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.quant_utils import ONNX_TYPE_TO_NP_TYPE
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from stdet.errors import QuantizationError
from stdet_deploy_stm32.onnx_graph.surgery import initializers
from stdet_deploy_stm32.quantize.settings import Override, Settings, check_names

TYPES = {
    "Int4": QuantType.QInt4, "UInt4": QuantType.QUInt4, "Int8": QuantType.QInt8, "UInt8": QuantType.QUInt8,
    "Int16": QuantType.QInt16, "UInt16": QuantType.QUInt16,
}  # fmt: skip
"""onnxruntime's names of `settings.TYPES`."""
OP_TYPES = tuple(
    sorted(
        {*QDQRegistry, *QLinearOpsRegistry}
        | {"Abs", "HardSigmoid", "HardSwish", "Max", "Min", "PRelu", "SpaceToDepth", "Sub", "Tanh"}
    )
)
"""Operators that get quantized: those onnxruntime knows, and those the NPU also runs in int8."""


def insert_qdq(model: ModelProto, ranges: dict[str, tuple[float, float]], settings: Settings) -> ModelProto:
    """The QDQ form of a prepared float `model`.

    Args:
        ranges: (low, high) by activation.

    Raises:
        QuantizationError: an option names a node, operator or tensor that isn't there, or onnxruntime refuses.
    """
    _check_names(model, ranges, settings)
    work = ModelProto()
    work.CopyFrom(model)
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # onnxruntime logs to the root logger about things that are checked here
    try:
        quantizer = QDQQuantizer(
            work,
            per_channel=settings.per_channel,
            reduce_range=False,
            weight_qType=TYPES[settings.weight_type],
            activation_qType=TYPES[settings.activation_type],
            tensors_range=TensorsData(CalibrationMethod.MinMax, data),
            nodes_to_quantize=list(settings.nodes),
            nodes_to_exclude=list(settings.exclude),
            op_types_to_quantize=list(settings.op_types or OP_TYPES),
            extra_options=_extra_options(settings),
        )
        return quantizer.quantize_model()
    except (ValueError, TypeError, RuntimeError, KeyError, AssertionError) as error:
        raise QuantizationError(f"onnxruntime's quantizer refuses the model or the options: {error}") from error
    finally:
        logging.disable(before)


def _check_names(model: ModelProto, ranges: dict[str, tuple[float, float]], settings: Settings) -> None:
    node_names = {node.name for node in model.graph.node}
    check_names("onnx_quant_parameters.nodes_to_quantize", settings.nodes, node_names)
    check_names("onnx_quant_parameters.nodes_to_exclude", settings.exclude, node_names)
    for op_type in settings.op_types:
        if op_type not in OP_TYPES:
            raise QuantizationError(
                f"quantization.onnx_quant_parameters.op_types_to_quantize: `{op_type}` can't be quantized",
                f"allowed: {', '.join(OP_TYPES)}",
            )
    check_names(
        "onnx_extra_options.weights_tensor_override", (o.tensor for o in settings.weight_overrides), initializers(model)
    )
    check_names(
        "onnx_extra_options.activations_tensor_override", (o.tensor for o in settings.activation_overrides), ranges
    )


def _extra_options(settings: Settings) -> dict[str, Any]:
    overrides = {o.tensor: _ort_override(o, settings.weight_type) for o in settings.weight_overrides}
    overrides |= {o.tensor: _ort_override(o, settings.activation_type) for o in settings.activation_overrides}
    return {
        "WeightSymmetric": settings.weight_symmetric,
        "ActivationSymmetric": settings.activation_symmetric,
        "QuantizeBias": settings.quantize_bias,
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
