"""Reads the `quantization` section and refuses what has no meaning together. No ONNX is imported here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stdet.errors import QuantizationError
from stdet_deploy_stm32.quantize import steps
from stdet_deploy_stm32.quantize.section import GeneralQuantization
from stdet_deploy_stm32.quantize.settings import TYPES, Override, Settings, choose

_OPSET_OF_4_AND_16_BITS = 21


def read_options(config: GeneralQuantization) -> Settings:
    """The settings that a `quantization` section asks for.

    Raises:
        QuantizationError: a value that isn't possible, or a combination that has no meaning.
    """
    settings = read(config)
    for mistake in mistakes(settings):
        raise mistake
    return settings


def mistakes(settings: Settings) -> Iterator[QuantizationError]:
    """All combinations in `settings` that have no meaning: those of each step, then those of the general keys."""
    for step in steps.STEPS:
        yield from step.mistakes(settings)
    yield from _type_mistakes(settings)


def read(config: GeneralQuantization) -> Settings:
    """The settings as they are written, whatever they mean together.

    Raises:
        QuantizationError: a value that isn't possible.
    """
    params, extra = config.onnx_quant_parameters, config.onnx_extra_options
    return Settings(
        quantizer=config.quantizer,
        method=choose("onnx_quant_parameters.calibrate_method", params.calibrate_method, steps.methods()),
        per_channel=config.granularity == "per_channel",
        target_opset=config.target_opset,
        input_type=config.quantization_input_type,
        output_type=config.quantization_output_type,
        weight_type=choose("onnx_quant_parameters.weightType", params.weightType, TYPES),
        activation_type=choose("onnx_quant_parameters.activType", params.activType, TYPES),
        op_types=tuple(params.op_types_to_quantize or ()),
        nodes=tuple(params.nodes_to_quantize or ()),
        exclude=tuple(params.nodes_to_exclude or ()),
        weight_symmetric=extra.WeightSymmetric,
        activation_symmetric=extra.ActivationSymmetric,
        quantize_bias=extra.QuantizeBias,
        weight_overrides=_overrides("weights_tensor_override", extra.weights_tensor_override),
        activation_overrides=_overrides("activations_tensor_override", extra.activations_tensor_override),
        sections={"onnx_quant_parameters": params, "onnx_extra_options": extra},
    )


def _type_mistakes(settings: Settings) -> Iterator[QuantizationError]:
    if settings.per_channel and not settings.weight_symmetric:
        yield QuantizationError(
            "quantization.onnx_extra_options.WeightSymmetric False has no meaning with granularity per_channel: "
            "per-channel weights are always symmetric",
            "set granularity: per_tensor or leave WeightSymmetric out",
        )
    if settings.activation_type.startswith("Int") and settings.weight_type.startswith("UInt"):
        yield QuantizationError(
            f"weightType {settings.weight_type} can't be combined with activType {settings.activation_type}",
            "use a signed weightType",
        )
    if "4" in settings.activation_type:
        yield QuantizationError(
            f"activType {settings.activation_type}: 4 bits are for weights only", "use Int8 or Int16 for activations"
        )
    if (young := _types_of_opset_21(settings)) and settings.target_opset < _OPSET_OF_4_AND_16_BITS:
        yield QuantizationError(
            f"{young[0]} needs opset {_OPSET_OF_4_AND_16_BITS}; quantization.target_opset is {settings.target_opset}",
            f"set target_opset: {_OPSET_OF_4_AND_16_BITS}",
        )


def _types_of_opset_21(settings: Settings) -> list[str]:
    """The types of 4 and 16 bits that are asked for, and the options that bring some."""
    overrides = (*settings.weight_overrides, *settings.activation_overrides)
    types = (settings.weight_type, settings.activation_type, *(o.quant_type for o in overrides if o.quant_type))
    options = [name for step in steps.STEPS for name in step.needs_opset_21(settings)]
    return [name for name in types if not name.endswith("8")] + options


def _overrides(key: str, entries: Iterable[Any] | None) -> tuple[Override, ...]:
    overrides = tuple(_override(key, entry) for entry in entries or ())
    names = [o.tensor for o in overrides]
    for name in names:
        if names.count(name) > 1:
            raise QuantizationError(f"quantization.onnx_extra_options.{key} names `{name}` twice")
    return overrides


def _listed(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


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
        scale = None if "scale" not in settings else tuple(float(v) for v in _listed(settings["scale"]))
        zero_point = None if scale is None else tuple(int(v) for v in _listed(settings["zero_point"]))
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
