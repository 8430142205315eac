"""The config sections of STM32 targets. No torch here, and nothing of ONNX: they are imported to check a config."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from stdet.interfaces import target
from stdet.interfaces.family import Options

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class OnnxQuantParameters(Options):
    weightType: str = Field("Int8", description="Int8, UInt8, Int16, UInt16, Int4, UInt4")
    activType: str = Field("Int8", description="Int8, UInt8, Int16, UInt16")
    calibrate_method: str = Field(
        "Sensitivity", description="of activation ranges: Sensitivity, MSE, Percentile, Entropy or MinMax"
    )
    percentile: float | None = Field(
        None, gt=50, le=100, description="Percentile: percent of the values inside the range; default 99.9"
    )
    sensitivity_images: Positive | None = Field(
        None, description="Sensitivity: images whose gradients are taken, spread over all; default 16"
    )
    op_types_to_quantize: tuple[str, ...] | None = Field(None, description="only these operators")
    nodes_to_quantize: tuple[str, ...] | None = Field(None, description="only these nodes")
    nodes_to_exclude: tuple[str, ...] | None = Field(None, description="leave these nodes in float")


class OnnxExtraOptions(Options):
    WeightSymmetric: bool = Field(True, description="weights around zero")
    ActivationSymmetric: bool = Field(False, description="activations around zero")
    ActivationAwareRanges: bool = Field(
        False, description="cut the inputs of SiLU at -8 and of HardSwish at -3, below which they are flat"
    )
    CrossLayerEqualization: bool | None = Field(
        None, description="scale the channels of the worst layers alike (arXiv 1906.04721); default: with Sensitivity"
    )
    Int16Share: Share = Field(
        0.0, description="share of activation bytes that may become int16, worst tensors first; needs target_opset 21"
    )
    Int4Share: Share = Field(
        0.0, description="share of the weight bytes that become int4, least sensitive first; needs target_opset 21"
    )
    CalibMovingAverage: bool = Field(False, description="average the ranges of the images (MinMax)")
    QuantizeBias: bool = Field(True, description="int32 bias")
    BiasCorrection: bool = Field(
        False,
        description="let biases take back what rounded weights shift in the mean of each channel (arXiv 1906.04721)",
    )
    SequentialMSE: bool = Field(
        False, description="choose scale and rounding of the weights by what each layer's result loses, layer by layer"
    )
    AdaRoundIterations: Positive | None = Field(
        None, description="aimet: steps of the descent that rounds each layer; default 500"
    )
    SmoothQuant: bool = Field(False, description="move range from activations to weights (arXiv 2211.10438)")
    SmoothQuantAlpha: Share = Field(0.5, description="how much of it")
    SmoothQuantFolding: bool = Field(True, description="fold the factors into the layer before")
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


class Quantization(target.Quantization):
    quantizer: Annotated[Literal["onnx_quantizer", "nncf", "aimet"], BeforeValidator(_lower)] = Field(
        "onnx_quantizer",
        description="onnxruntime's static quantizer; nncf: biases corrected by NNCF, aimet: weights rounded by AIMET's "
        "AdaRound (extras)",
    )
    quantization_type: Annotated[Literal["PTQ"], BeforeValidator(_upper)] = Field(
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
