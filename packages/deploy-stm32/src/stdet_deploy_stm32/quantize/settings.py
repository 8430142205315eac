"""The `quantization` section of the config as one checked value."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto
from onnxruntime.quantization import QuantType

from stdet.errors import QuantizationError
from stdet_deploy_stm32.quantize.libraries import AIMET, EXTRAS, NNCF
from stdet_deploy_stm32.quantize.ranges.methods import METHODS, PERCENTILE

TYPES = {
    "Int4": QuantType.QInt4, "UInt4": QuantType.QUInt4, "Int8": QuantType.QInt8, "UInt8": QuantType.QUInt8,
    "Int16": QuantType.QInt16, "UInt16": QuantType.QUInt16,
}  # fmt: skip
SENSITIVITY = "Sensitivity"
ALL_METHODS = (*METHODS, SENSITIVITY)
SENSITIVITY_IMAGES = 16
ADAROUND_ITERATIONS = 500
"""Of each layer; AIMET's own default of 10 000 is for graphics cards."""
IO_TYPES = ("int8", "uint8", "float")
_OPSET_OF_4_AND_16_BITS = 21


@dataclass(frozen=True)
class Override:
    """What one tensor gets instead of the general settings.

    Attributes:
        tensor: name.
        quant_type: key of `TYPES`, or None for the general type.
        scale, zero_point: one value a channel, or one for the tensor; both or none.
        axis: channel axis of a per-channel weight; None quantizes per tensor.
    """

    tensor: str
    quant_type: str | None
    scale: tuple[float, ...] | None
    zero_point: tuple[int, ...] | None
    axis: int | None


@dataclass(frozen=True)
class Settings:
    """How to quantize; each attribute is a config key of the same meaning."""

    quantizer: str
    method: str
    percentile: float
    sensitivity_images: int
    activation_aware: bool
    equalize: bool
    int16_share: float
    int4_share: float
    per_channel: bool
    target_opset: int
    input_type: str
    output_type: str
    weight_type: str
    activation_type: str
    op_types: tuple[str, ...]
    nodes: tuple[str, ...]
    exclude: tuple[str, ...]
    weight_symmetric: bool
    activation_symmetric: bool
    average_ranges: bool
    quantize_bias: bool
    bias_correction: bool
    sequential_mse: bool
    adaround_iterations: int
    smooth_alpha: float | None
    smooth_folding: bool
    weight_overrides: tuple[Override, ...]
    activation_overrides: tuple[Override, ...]

    def chooses(self, node: NodeProto) -> bool:
        """Whether `op_types`, `nodes` and `exclude` let this node be quantized."""
        return (
            node.name not in self.exclude
            and (not self.nodes or node.name in self.nodes)
            and (not self.op_types or node.op_type in self.op_types)
        )


def read_options(config: Any) -> Settings:
    """The settings that a `quantization` section asks for.

    Args:
        config: object whose attributes are the section's keys, nested sections included.

    Raises:
        QuantizationError: a value that isn't possible, or a combination that has no meaning.
    """
    params, extra = config.onnx_quant_parameters, config.onnx_extra_options
    choose("quantization_type", config.quantization_type, ("PTQ",))
    settings = Settings(
        quantizer=choose("quantizer", config.quantizer, ("onnx_quantizer", *EXTRAS)),
        method=(method := choose("onnx_quant_parameters.calibrate_method", params.calibrate_method, ALL_METHODS)),
        percentile=PERCENTILE if params.percentile is None else params.percentile,
        sensitivity_images=params.sensitivity_images or SENSITIVITY_IMAGES,
        activation_aware=extra.ActivationAwareRanges,
        equalize=method == SENSITIVITY if extra.CrossLayerEqualization is None else extra.CrossLayerEqualization,
        int16_share=extra.Int16Share,
        int4_share=extra.Int4Share,
        per_channel=choose("granularity", config.granularity, ("per_channel", "per_tensor")) == "per_channel",
        target_opset=config.target_opset,
        input_type=choose("quantization_input_type", config.quantization_input_type, IO_TYPES),
        output_type=choose("quantization_output_type", config.quantization_output_type, IO_TYPES),
        weight_type=choose("onnx_quant_parameters.weightType", params.weightType, TYPES),
        activation_type=choose("onnx_quant_parameters.activType", params.activType, TYPES),
        op_types=tuple(params.op_types_to_quantize or ()),
        nodes=tuple(params.nodes_to_quantize or ()),
        exclude=tuple(params.nodes_to_exclude or ()),
        weight_symmetric=extra.WeightSymmetric,
        activation_symmetric=extra.ActivationSymmetric,
        average_ranges=extra.CalibMovingAverage,
        quantize_bias=extra.QuantizeBias,
        bias_correction=extra.BiasCorrection,
        sequential_mse=extra.SequentialMSE,
        adaround_iterations=extra.AdaRoundIterations or ADAROUND_ITERATIONS,
        smooth_alpha=extra.SmoothQuantAlpha if extra.SmoothQuant else None,
        smooth_folding=extra.SmoothQuantFolding,
        weight_overrides=_overrides("weights_tensor_override", extra.weights_tensor_override),
        activation_overrides=_overrides("activations_tensor_override", extra.activations_tensor_override),
    )
    _check_meaning(params, extra, settings)
    _check_combinations(settings)
    return settings


def choose(key: str, value: str, allowed: Collection[str]) -> str:
    """The member of `allowed` that `value` names, whatever its case.

    Raises:
        QuantizationError: it names none.
    """
    for name in allowed:
        if str(value).lower() == name.lower():
            return name
    raise QuantizationError(f"quantization.{key} is {value!r}", f"allowed: {', '.join(allowed)}")


def check_names(key: str, names: Iterable[str], known: Collection[str]) -> None:
    """Refuse names that the graph doesn't have.

    Raises:
        QuantizationError: names the key, the unknown name and the nearest ones.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or sorted(known)[:3]
            raise QuantizationError(
                f"quantization.{key}: the model has no `{name}`", f"nearest: {', '.join(f'`{n}`' for n in near)}"
            )


def _check_meaning(params: Any, extra: Any, settings: Settings) -> None:
    """Refuse options of methods that aren't chosen."""
    sensitive = settings.method == SENSITIVITY
    for key, given, allowed, needed in (
        ("onnx_quant_parameters.percentile", params.percentile is not None, settings.method == "Percentile",
         "calibrate_method: Percentile"),
        ("onnx_quant_parameters.sensitivity_images", params.sensitivity_images is not None, sensitive,
         f"calibrate_method: {SENSITIVITY}"),
        ("onnx_extra_options.ActivationAwareRanges", settings.activation_aware, not sensitive,
         f"a calibrate_method other than {SENSITIVITY}, which is aware of activations anyway"),
        ("onnx_extra_options.CrossLayerEqualization", settings.equalize, sensitive, f"calibrate_method: {SENSITIVITY}"),
        ("onnx_extra_options.Int16Share", settings.int16_share > 0, sensitive, f"calibrate_method: {SENSITIVITY}"),
        ("onnx_extra_options.Int16Share", settings.int16_share > 0, settings.activation_type == "Int8", "activType: Int8"),
        ("onnx_extra_options.Int4Share", settings.int4_share > 0, settings.weight_type == "Int8" and settings.per_channel,
         "weightType: Int8 and granularity: per_channel"),
        ("onnx_extra_options.BiasCorrection", settings.bias_correction, settings.quantize_bias, "QuantizeBias: True"),
        ("onnx_extra_options.BiasCorrection", settings.bias_correction, settings.quantizer != NNCF.name,
         "quantizer: onnx_quantizer, since NNCF corrects the biases itself"),
        ("quantizer: nncf", settings.quantizer == NNCF.name,
         (settings.weight_type, settings.activation_type, settings.int4_share) == ("Int8", "Int8", 0.0),
         "weightType: Int8 and activType: Int8, without Int4Share: NNCF corrects for 8 bits"),
        ("onnx_extra_options.SequentialMSE", settings.sequential_mse,
         settings.weight_symmetric and settings.weight_type in ("Int4", "Int8"),
         "symmetric weights, weightType: Int8 or Int4"),
        ("onnx_extra_options.SequentialMSE", settings.sequential_mse, settings.quantizer != AIMET.name,
         "another quantizer, since it would round anew what AdaRound has rounded"),
        ("onnx_extra_options.AdaRoundIterations", extra.AdaRoundIterations is not None, settings.quantizer == AIMET.name,
         "quantizer: aimet"),
        ("quantizer: aimet", settings.quantizer == AIMET.name,
         settings.per_channel and settings.weight_type in ("Int4", "Int8"),
         "granularity: per_channel and weightType: Int8 or Int4"),
    ):  # fmt: skip
        if given and not allowed:
            raise QuantizationError(f"quantization.{key} has no meaning here", f"it needs {needed}")


def _check_combinations(settings: Settings) -> None:
    if settings.per_channel and not settings.weight_symmetric:
        raise QuantizationError(
            "quantization.onnx_extra_options.WeightSymmetric False has no meaning with granularity per_channel: "
            "per-channel weights are always symmetric",
            "set granularity: per_tensor or leave WeightSymmetric out",
        )
    if settings.average_ranges and settings.method != "MinMax":
        raise QuantizationError(
            f"quantization.onnx_extra_options.CalibMovingAverage has no meaning with calibrate_method {settings.method}",
            "use calibrate_method: MinMax",
        )
    if settings.activation_type.startswith("Int") and settings.weight_type.startswith("UInt"):
        raise QuantizationError(
            f"weightType {settings.weight_type} can't be combined with activType {settings.activation_type}",
            "use a signed weightType",
        )
    if "4" in settings.activation_type:
        raise QuantizationError(
            f"activType {settings.activation_type}: 4 bits are for weights only", "use Int8 or Int16 for activations"
        )
    overrides = (*settings.weight_overrides, *settings.activation_overrides)
    types = (settings.weight_type, settings.activation_type, *(o.quant_type for o in overrides if o.quant_type))
    wide = [name for name in types if not name.endswith("8")] + [
        name for name, share in (("Int16Share", settings.int16_share), ("Int4Share", settings.int4_share)) if share > 0
    ]
    if wide and settings.target_opset < _OPSET_OF_4_AND_16_BITS:
        raise QuantizationError(
            f"{wide[0]} needs opset {_OPSET_OF_4_AND_16_BITS}; quantization.target_opset is {settings.target_opset}",
            f"set target_opset: {_OPSET_OF_4_AND_16_BITS}",
        )


def _overrides(key: str, entries: Iterable[Any] | None) -> tuple[Override, ...]:
    overrides = tuple(_override(key, entry) for entry in entries or ())
    names = [o.tensor for o in overrides]
    for name in names:
        if names.count(name) > 1:
            raise QuantizationError(f"quantization.onnx_extra_options.{key} names `{name}` twice")
    return overrides


def _override(key: str, entry: Any) -> Override:
    """Reads `[name, {quant_type, scale, zero_point, axis}]`."""
    where = f"quantization.onnx_extra_options.{key}"
    allowed = {"quant_type", "scale", "zero_point", "axis"}
    pair = isinstance(entry, (list, tuple)) and len(entry) == 2
    if not pair or not isinstance(entry[0], str) or not isinstance(entry[1], Mapping):
        raise QuantizationError(f"{where}: {entry!r} isn't [name, {{settings}}]")
    name, settings = entry[0], dict(entry[1])
    if unknown := settings.keys() - allowed:
        raise QuantizationError(f"{where}: `{name}` has {sorted(unknown)}", f"allowed: {', '.join(sorted(allowed))}")
    if ("scale" in settings) != ("zero_point" in settings):
        raise QuantizationError(f"{where}: `{name}` needs scale and zero_point, or neither")
    if not settings.keys() & {"quant_type", "scale", "axis"}:
        raise QuantizationError(f"{where}: `{name}` changes nothing", f"give one of {', '.join(sorted(allowed))}")
    quant_type = settings.get("quant_type")
    try:
        scale = None if "scale" not in settings else tuple(float(v) for v in np.atleast_1d(settings["scale"]))
        zero_point = None if scale is None else tuple(int(v) for v in np.atleast_1d(settings["zero_point"]))
        axis = None if settings.get("axis") is None else int(settings["axis"])
    except (TypeError, ValueError) as error:
        raise QuantizationError(
            f"{where}: `{name}` has a scale, zero point or axis that is no number: {error}"
        ) from error
    if scale is not None and not all(0 < s < float("inf") for s in scale):
        raise QuantizationError(f"{where}: `{name}` has the scale {settings['scale']}", "a scale is above 0")
    if scale is not None and zero_point is not None and len(scale) != len(zero_point):
        raise QuantizationError(f"{where}: `{name}` has {len(scale)} scales and {len(zero_point)} zero points")
    if scale is not None and len(scale) > 1 and axis is None:
        raise QuantizationError(f"{where}: `{name}` has {len(scale)} scales but no axis")
    return Override(
        name, None if quant_type is None else choose(f"{key}.quant_type", quant_type, TYPES), scale, zero_point, axis
    )
