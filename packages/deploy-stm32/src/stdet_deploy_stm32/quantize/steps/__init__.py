"""The menu: one file a method, one line each in `STEPS`, in the order in which they work."""

from __future__ import annotations

from typing import Any

from stdet_deploy_stm32.quantize.libraries import Library
from stdet_deploy_stm32.quantize.steps.activation_aware_ranges import ActivationAwareRanges
from stdet_deploy_stm32.quantize.steps.aimet import Aimet
from stdet_deploy_stm32.quantize.steps.bias_correction import BiasCorrection
from stdet_deploy_stm32.quantize.steps.cross_layer_equalization import CrossLayerEqualization
from stdet_deploy_stm32.quantize.steps.int4_share import Int4Share
from stdet_deploy_stm32.quantize.steps.int16_share import Int16Share
from stdet_deploy_stm32.quantize.steps.nncf import Nncf
from stdet_deploy_stm32.quantize.steps.observed_ranges import Entropy, MeanSquaredError, MinMax, Percentile
from stdet_deploy_stm32.quantize.steps.pixel_range import PixelRange
from stdet_deploy_stm32.quantize.steps.placement import Placement
from stdet_deploy_stm32.quantize.steps.sensitivity_ranges import SensitivityRanges
from stdet_deploy_stm32.quantize.steps.sequential_mse import SequentialMse
from stdet_deploy_stm32.quantize.steps.smooth_quant import SmoothQuant
from stdet_deploy_stm32.quantize.steps.ssd_answers import SsdAnswers
from stdet_deploy_stm32.quantize.steps.step import Step
from stdet_deploy_stm32.quantize.steps.without_gradients import WithoutGradients

STEPS: tuple[Step[Any], ...] = (
    WithoutGradients(),
    # float to float
    SmoothQuant(),
    CrossLayerEqualization(),
    # ranges and types of the activations
    MinMax(),
    Entropy(),
    Percentile(),
    MeanSquaredError(),
    SensitivityRanges(),
    ActivationAwareRanges(),
    Int16Share(),
    # types and values of the weights and biases
    Int4Share(),
    Nncf(),
    Aimet(),
    # the form
    PixelRange(),
    SsdAnswers(),
    Placement(),
    # stored weights and biases
    SequentialMse(),
    BiasCorrection(),
)


def methods() -> tuple[str, ...]:
    """What `calibrate_method` may be."""
    return tuple(name for step in STEPS for name in step.methods)


def libraries() -> dict[str, Library]:
    """What `quantizer` may be, beside onnxruntime's."""
    return {step.library.name: step.library for step in STEPS if step.library is not None}
