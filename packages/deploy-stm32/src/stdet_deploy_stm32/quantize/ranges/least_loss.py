"""The ranges that the outputs lose least by, and what they lose."""

from __future__ import annotations

from onnx import ModelProto

from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.process_memory import return_memory
from stdet_deploy_stm32.quantize.ranges.methods import MinMax
from stdet_deploy_stm32.quantize.ranges.observe import border_tensors, tensor_ranges
from stdet_deploy_stm32.quantize.ranges.sensitivity import sensitivities

Ranges = dict[str, tuple[float, float]]

_SQUASHED = (0.0, 255 / 256)
"""Range of a Sigmoid, HardSigmoid or Softmax: a step of 1/256, whatever the images."""
_SQUASHERS = ("Sigmoid", "HardSigmoid", "Softmax")


def least_loss(
    model: ModelProto, data: CalibrationData, few: CalibrationData, levels: int, progress: Progress | None = None
) -> tuple[Ranges, dict[str, float]]:
    """The range of each tensor that the outputs lose least by, and what they lose: see `sensitivity.sensitivities`.

    Border tensors keep their whole range: see `observe.border_tensors`.

    Args:
        few: images of `data` whose gradients are taken.
        levels: of a quantized activation.
        progress: called after each image of `data`, then of `few`.

    Raises:
        QuantizationError: unusable images, or a graph whose gradients can't be taken.
    """
    ranges = tensor_ranges(model, data, MinMax, progress)
    return_memory()
    found = sensitivities(model, few, ranges, levels, progress)
    return_memory()
    border = border_tensors(model)
    ranges |= {name: s.best_range() for name, s in found.items() if name not in border}
    ranges |= {n: _SQUASHED for node in model.graph.node if node.op_type in _SQUASHERS for n in node.output}
    return ranges, {name: s.error(*ranges[name]) for name, s in found.items()}
