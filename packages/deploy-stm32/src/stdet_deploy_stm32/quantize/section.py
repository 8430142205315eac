"""The `quantization` section of STM32 targets: general keys, and those that each step brings. It imports no ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model, field_validator

from stdet.interfaces import target
from stdet.interfaces.family import Options
from stdet_deploy_stm32.quantize import steps
from stdet_deploy_stm32.quantize.settings import PLAIN
from stdet_deploy_stm32.quantize.steps.step import Positive, Share
from stdet_deploy_stm32.sections import upper


class OnnxQuantParameters(Options):
    weightType: str = Field("Int8", description="Int8, UInt8, Int16, UInt16, Int4, UInt4")
    activType: str = Field(
        "Int8", description="Int8, UInt8 (which is stored as Int8, with the same numbers), Int16, UInt16"
    )
    calibrate_method: str = Field("Sensitivity", description="of activation ranges")
    op_types_to_quantize: tuple[str, ...] | None = Field(None, description="only these operators")
    nodes_to_quantize: tuple[str, ...] | None = Field(None, description="only these nodes")
    nodes_to_exclude: tuple[str, ...] | None = Field(None, description="leave these nodes in float")


class OnnxExtraOptions(Options):
    WeightSymmetric: bool = Field(True, description="weights around zero")
    ActivationSymmetric: bool = Field(False, description="activations around zero")
    QuantizeBias: bool = Field(True, description="int32 bias")
    weights_tensor_override: tuple[Any, ...] | None = Field(
        None, description="[[name, {quant_type, scale, zero_point, axis}]]"
    )
    activations_tensor_override: tuple[Any, ...] | None = Field(None, description="the same for activations")


class IterativeQuantParameters(Options):
    inspection_images: Positive = Field(4, description="calibration images that tensors are ranked with")
    inspection_map: int = Field(
        0, ge=0, description="inspection: for so many of the worst tensors, also the score when only it is quantized"
    )
    max_trials: Positive = Field(24, description="full_auto: most models to score")
    max_int16_share: Share = Field(0.1, description="full_auto: most of the activation bytes that may become int16")


class GeneralQuantization(target.Quantization):
    """The keys that are no step's. `Quantization` has the others, too."""

    quantizer: str = Field(PLAIN, description="onnxruntime's static quantizer")
    quantization_type: Annotated[Literal["PTQ"], BeforeValidator(upper)] = Field(
        "PTQ", description="post-training quantization"
    )
    quantization_input_type: Literal["float", "int8", "uint8"] = Field("float", description="type of the graph's input")
    quantization_output_type: Literal["float", "int8", "uint8"] = Field("float", description="type of its outputs")
    granularity: Literal["per_channel", "per_tensor"] = Field("per_channel", description="of the weights' scales")
    target_opset: int = Field(17, ge=13, le=21, description="opset of the int8 file; 21 for 4- and 16-bit types")
    operating_mode: Literal["default", "inspection", "full_auto", "normalise"] = Field(
        "default",
        description="quantize as described; also rank the tensors by their damage; search a recipe within max_drop; or "
        "check another tool's QDQ file and bring it into the form",
    )
    iterative_quant_parameters: IterativeQuantParameters = IterativeQuantParameters()
    onnx_quant_parameters: OnnxQuantParameters = OnnxQuantParameters()
    onnx_extra_options: OnnxExtraOptions = OnnxExtraOptions()

    @field_validator("quantizer", mode="before")
    @classmethod
    def _in_lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


def with_steps() -> type[GeneralQuantization]:
    """`GeneralQuantization` with the keys, methods and quantizers of all `steps.STEPS`."""
    *others, last = reversed(steps.methods())
    libraries = steps.libraries().values()
    choices: Any = Literal
    described = "; ".join(["onnxruntime's static quantizer", *(f"{each.name}: {each.does}" for each in libraries)])
    params = _nested(
        OnnxQuantParameters,
        "onnx_quant_parameters",
        calibrate_method=(
            str,
            Field("Sensitivity", description=f"of activation ranges: {', '.join(others)} or {last}"),
        ),
    )
    extra = _nested(OnnxExtraOptions, "onnx_extra_options")
    return create_model(
        "Quantization",
        __base__=GeneralQuantization,
        __module__=__name__,
        quantizer=(
            choices[PLAIN, *(each.name for each in libraries)],
            Field(PLAIN, description=f"{described} (extras)"),
        ),
        onnx_quant_parameters=(params, params()),
        onnx_extra_options=(extra, extra()),
    )


def _nested(general: type[Options], section: str, **fields: Any) -> type[Options]:
    """`general` with the keys of the steps that have their keys in `section`."""
    keys = [step.options for step in reversed(steps.STEPS) if step.section == section and step.options.model_fields]
    return create_model(general.__name__, __base__=(*keys, general), __module__=__name__, **fields)


if TYPE_CHECKING:
    Quantization = GeneralQuantization  # a step's keys are read by `Step.of`, which knows their types
else:
    Quantization = with_steps()
