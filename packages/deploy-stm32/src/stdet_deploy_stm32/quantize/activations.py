"""Decides, for every activation, its range and its number of bits; equalizes layers where one range can't serve all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from onnx import ModelProto

from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.memory import return_memory
from stdet_deploy_stm32.quantize.calibrate import border_tensors, subset, tensor_ranges
from stdet_deploy_stm32.quantize.equalize import equalize, floors
from stdet_deploy_stm32.quantize.options import SENSITIVITY, Override, Recipe
from stdet_deploy_stm32.quantize.precision import dominant_pairs, int16_tensors
from stdet_deploy_stm32.quantize.ranges import (
    METHODS,
    AverageMinMax,
    FromHistogram,
    MinMax,
    Observer,
    percentile_range,
)
from stdet_deploy_stm32.quantize.sensitivity import sensitivities

Ranges = dict[str, tuple[float, float]]

_PREVIEW = 4
"""Images that show which layers to equalize."""
_SQUASHED = (0.0, 255 / 256)
"""Range of a Sigmoid, HardSigmoid or Softmax: a step of 1/256, whatever the images."""
_SQUASHERS = ("Sigmoid", "HardSigmoid", "Softmax")
_WORST = 10


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `insert.insert_qdq` works from.

    Attributes:
        model: the float graph, equalized.
        ranges: (low, high) by activation.
        recipe: with int16 overrides for the searched tensors.
        equalized: results of the equalized pairs.
        errors: predicted loss of the outputs by tensor, see `sensitivity.sensitivities`; empty with other methods.
        int16, int16_share: searched tensors, and their share of the activation bytes.
    """

    model: ModelProto
    ranges: Ranges
    recipe: Recipe
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


def plan_activations(
    model: ModelProto, data: CalibrationData, recipe: Recipe, progress: Progress | None = None
) -> Plan:
    """Ranges and precisions of all activations of the prepared float `model`.

    Raises:
        QuantizationError: unusable images, or a graph whose gradients can't be taken.
    """
    if recipe.method == SENSITIVITY:
        return _by_sensitivity(model, data, recipe, progress)
    ranges = tensor_ranges(model, data, _observer(recipe), progress)
    if recipe.activation_aware:
        for name, floor in floors(model).items():
            low, high = ranges[name]
            ranges[name] = (min(max(low, floor), high), high)
    return Plan(model, ranges, recipe)


def _observer(recipe: Recipe) -> Callable[[], Observer]:
    if recipe.average_ranges:
        return AverageMinMax
    if recipe.method == "Percentile":
        return lambda: FromHistogram(partial(percentile_range, percentile=recipe.percentile))
    return METHODS[recipe.method]


def _by_sensitivity(model: ModelProto, data: CalibrationData, recipe: Recipe, progress: Progress | None) -> Plan:
    counted = _Counter(progress, data.count + min(recipe.sensitivity_images, data.count))
    equalized: tuple[str, ...] = ()
    if recipe.equalize:
        few = subset(data, _PREVIEW)
        _, errors = _least_loss(model, few, few, recipe, None)
        if chosen := dominant_pairs(model, errors):
            model = equalize(model, few, chosen)
            equalized = tuple(pair.tensors[-1] for pair in chosen)
    ranges, errors = _least_loss(model, data, subset(data, recipe.sensitivity_images), recipe, counted)
    wide, share = int16_tensors(model, errors, recipe.int16_share)
    named = {o.tensor for o in recipe.activation_overrides}
    overrides = tuple(Override(name, "Int16", None, None, None) for name in wide if name not in named)
    recipe = dataclasses.replace(recipe, activation_overrides=(*recipe.activation_overrides, *overrides))
    return Plan(model, ranges, recipe, equalized, errors, tuple(wide), share)


def _least_loss(
    model: ModelProto, data: CalibrationData, few: CalibrationData, recipe: Recipe, counted: _Counter | None
) -> tuple[Ranges, dict[str, float]]:
    """The range of each tensor that the outputs lose least by, and what they lose.

    Border tensors keep their whole range: see `calibrate.border_tensors`.
    """
    levels = 1 << int(recipe.activation_type.lower().removeprefix("u").removeprefix("int"))
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
