"""Decides, for every activation, its range and its number of bits; equalizes layers where one range can't serve all."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from onnx import ModelProto

from stdet.errors import QuantizationError
from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.onnx_graph.gradients import no_gradient
from stdet_deploy_stm32.process_memory import return_memory
from stdet_deploy_stm32.quantize.images import subset
from stdet_deploy_stm32.quantize.ranges.methods import (
    METHODS,
    AverageMinMax,
    FromHistogram,
    MinMax,
    Observer,
    percentile_range,
)
from stdet_deploy_stm32.quantize.ranges.observe import border_tensors, tensor_ranges
from stdet_deploy_stm32.quantize.ranges.sensitivity import sensitivities
from stdet_deploy_stm32.quantize.settings import SENSITIVITY, Override, Settings
from stdet_deploy_stm32.quantize.steps.equalize import dominant_pairs, equalize, floors
from stdet_deploy_stm32.quantize.steps.int16 import int16_tensors

log = logging.getLogger(__name__)

Ranges = dict[str, tuple[float, float]]

WITHOUT_GRADIENTS = "Percentile"
"""The method for graphs that can't be differentiated: after Sensitivity, the best on YOLOX-nano (docs/quantization.md)."""

_PREVIEW = 4
"""Images that show which layers to equalize."""
_SQUASHED = (0.0, 255 / 256)
"""Range of a Sigmoid, HardSigmoid or Softmax: a step of 1/256, whatever the images."""
_SQUASHERS = ("Sigmoid", "HardSigmoid", "Softmax")
_WORST = 10


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `form.insert.insert_qdq` works from.

    Attributes:
        model: the float graph, equalized.
        ranges: (low, high) by activation.
        settings: with int16 overrides for the searched tensors.
        equalized: results of the equalized pairs.
        errors: predicted loss of the outputs by tensor, see `sensitivity.sensitivities`; empty with other methods.
        int16, int16_share: searched tensors, and their share of the activation bytes.
    """

    model: ModelProto
    ranges: Ranges
    settings: Settings
    equalized: tuple[str, ...] = ()
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    int16: tuple[str, ...] = ()
    int16_share: float = 0.0

    def record(self) -> dict[str, Any]:
        """For the artifact's metadata."""
        total = sum(self.errors.values())
        worst = sorted(self.errors, key=lambda n: -self.errors[n])[:_WORST] if total else []
        return {
            "equalized": list(self.equalized),
            "int16": {"tensors": list(self.int16), "share_of_activation_bytes": round(self.int16_share, 4)},
            "predicted_error_shares": {n: round(self.errors[n] / total, 4) for n in worst},
        }


def without_gradients(model: ModelProto, settings: Settings) -> Settings:
    """`settings` as they are, or, with a warning, by `WITHOUT_GRADIENTS` where `model` can't be differentiated.

    Raises:
        QuantizationError: it can't be, and an option needs it.
    """
    why = no_gradient(model) if settings.method == SENSITIVITY else ""
    if not why:
        return settings
    if settings.int16_share:
        raise QuantizationError(f"{why}, and onnx_extra_options.Int16Share goes by gradients", "leave Int16Share out")
    log.warning("%s: ranges come from calibrate_method %s instead of %s", why, WITHOUT_GRADIENTS, SENSITIVITY)
    return dataclasses.replace(settings, method=WITHOUT_GRADIENTS, equalize=False)


def plan_activations(
    model: ModelProto, data: CalibrationData, settings: Settings, progress: Progress | None = None
) -> Plan:
    """Ranges and precisions of all activations of the prepared float `model`.

    Raises:
        QuantizationError: unusable images, or a graph whose gradients can't be taken.
    """
    if settings.method == SENSITIVITY:
        return _by_sensitivity(model, data, settings, progress)
    ranges = tensor_ranges(model, data, _observer(settings), progress)
    if settings.activation_aware:
        for name, floor in floors(model).items():
            low, high = ranges[name]
            ranges[name] = (min(max(low, floor), high), high)
    return Plan(model, ranges, settings)


def _observer(settings: Settings) -> Callable[[], Observer]:
    if settings.average_ranges:
        return AverageMinMax
    if settings.method == "Percentile":
        return lambda: FromHistogram(partial(percentile_range, percentile=settings.percentile))
    return METHODS[settings.method]


def _by_sensitivity(model: ModelProto, data: CalibrationData, settings: Settings, progress: Progress | None) -> Plan:
    counted = _Counter(progress, data.count + min(settings.sensitivity_images, data.count))
    equalized: tuple[str, ...] = ()
    if settings.equalize:
        few = subset(data, _PREVIEW)
        _, errors = _least_loss(model, few, few, settings, None)
        if chosen := dominant_pairs(model, errors):
            model = equalize(model, few, chosen)
            equalized = tuple(pair.tensors[-1] for pair in chosen)
    ranges, errors = _least_loss(model, data, subset(data, settings.sensitivity_images), settings, counted)
    wide, share = int16_tensors(model, errors, settings.int16_share)
    named = {o.tensor for o in settings.activation_overrides}
    overrides = tuple(Override(name, "Int16", None, None, None) for name in wide if name not in named)
    settings = dataclasses.replace(settings, activation_overrides=(*settings.activation_overrides, *overrides))
    return Plan(model, ranges, settings, equalized, errors, tuple(wide), share)


def _least_loss(
    model: ModelProto, data: CalibrationData, few: CalibrationData, settings: Settings, counted: _Counter | None
) -> tuple[Ranges, dict[str, float]]:
    """The range of each tensor that the outputs lose least by, and what they lose.

    Border tensors keep their whole range: see `observe.border_tensors`.
    """
    levels = 1 << int(settings.activation_type.lower().removeprefix("u").removeprefix("int"))
    ranges = tensor_ranges(model, data, MinMax, counted)
    return_memory()
    found = sensitivities(model, few, ranges, levels, counted)
    return_memory()
    border = border_tensors(model)
    ranges |= {name: s.best_range() for name, s in found.items() if name not in border}
    ranges |= {n: _SQUASHED for node in model.graph.node if node.op_type in _SQUASHERS for n in node.output}
    return ranges, {name: s.error(*ranges[name]) for name, s in found.items()}


class _Counter:
    """Counts the images of several passes as one progress."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, done: int, total: int | None) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)
