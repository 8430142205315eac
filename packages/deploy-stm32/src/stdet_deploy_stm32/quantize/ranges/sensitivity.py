"""How much the outputs lose when a tensor is rounded or cut, and the ranges that make them lose least.

To second order, an error d in an inner tensor changes the outputs by sum(g² d²), where g is the gradient of the outputs
by the tensor: the diagonal of the Gauss-Newton matrix, as BRECQ (Li et al., 2021) uses it. So a histogram of a tensor's
values in which each value counts with its g² tells what any range costs at the outputs, of all channels together. What
the following layers ignore weighs nothing: the flat tail of a SiLU, a saturated sigmoid, a channel with small weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from stdet.interfaces.deploy import CalibrationData, Progress
from stdet_deploy_stm32.onnx_graph.gradients import TorchGraph, one_thread
from stdet_deploy_stm32.onnx_graph.surgery import producers
from stdet_deploy_stm32.onnx_graph.tail import LAYOUT, moved_to
from stdet_deploy_stm32.quantize.images import images
from stdet_deploy_stm32.quantize.ranges.histogram import CHUNK
from stdet_deploy_stm32.quantize.ranges.methods import least_error_range, range_error

_BINS = 2048
_CONSTANT = 1e-10  # a variance below this share of the power is rounding


class Sensitivity:
    """The histogram of one tensor's values, each weighted with its squared gradient; exact zeros have no error.

    Attributes:
        low, high: all values seen in calibration; 0 is inside.
        levels: of the quantized tensor.
        weights: float64 (bins,).
    """

    def __init__(self, low: float, high: float, levels: int = 256) -> None:
        self.levels = levels
        self.low, self.high = min(low, 0.0), max(high, 0.0)
        self.weights = np.zeros(_BINS)

    def add(self, values: np.ndarray, gradient: np.ndarray) -> None:
        """Count `values` with `gradient`, both float32 of one shape."""
        span = self.high - self.low
        if span == 0.0:
            return
        scale = np.float32(_BINS / span)
        values, gradient = values.reshape(-1), gradient.reshape(-1)
        for start in range(0, values.size, CHUNK):
            part = slice(start, start + CHUNK)
            bins = ((values[part] - np.float32(self.low)) * scale).astype(np.int32)
            np.clip(bins, 0, _BINS - 1, out=bins)
            self.weights += np.bincount(bins, np.square(gradient[part]) * (values[part] != 0), _BINS)

    @property
    def centers(self) -> np.ndarray:
        """float64 (bins,): middle of each bin, in the tensor's values."""
        return self.low + (np.arange(_BINS) + 0.5) * ((self.high - self.low) / _BINS)

    def best_range(self) -> tuple[float, float]:
        """The range that costs the outputs least; all values when they cost nothing."""
        if not self.weights.any():
            return self.low, self.high
        return least_error_range(self.centers, self.weights, self.low, self.high, self.levels)

    def error(self, low: float, high: float) -> float:
        """What quantization over [low, high] costs, in the units of `sensitivities`."""
        return float(range_error(self.centers, self.weights, np.array(low), np.array(high), self.levels))


def sensitivities(
    model: ModelProto,
    data: CalibrationData,
    ranges: dict[str, tuple[float, float]],
    levels: int = 256,
    progress: Progress | None = None,
) -> dict[str, Sensitivity]:
    """The sensitivity of each tensor of `ranges`, over all images of `data`: some dozen are enough.

    The unit of an error is the sum, over the tensors that the outputs are joined from (boxes, objectness, scores of each
    level), of noise power by signal variance. Holds a part of one image's activations and gradients.

    Args:
        ranges: (smallest, largest) value by tensor.
        levels: of the quantized tensors.

    Raises:
        QuantizationError: an operator without a known gradient, or unusable images.
    """
    graph = TorchGraph(model)
    found = {name: Sensitivity(*limits, levels) for name, limits in ranges.items()}
    with one_thread():
        heads = _heads(graph, head_tensors(model), images(model, data))
        if heads:
            _accumulate(graph, heads, found, images(model, data), progress or (lambda done, total: None), data.count)
    return found


def _accumulate(
    graph: TorchGraph,
    heads: dict[str, tuple[torch.Size, float]],
    found: dict[str, Sensitivity],
    batches: Iterator[np.ndarray],
    progress: Progress,
    count: int,
) -> None:
    def visit(name: str, value: Tensor, gradient: Tensor) -> None:
        if name in found:
            found[name].add(value.numpy(), gradient.numpy())

    generator = torch.Generator().manual_seed(0)
    for index, image in enumerate(batches):
        # a random sign for each element: the squares of the gradients then have the wanted sum as their mean
        seeds = {n: _signs(shape, generator) / (d * shape.numel() ** 0.5) for n, (shape, d) in heads.items()}
        graph.gradients(torch.from_numpy(image), seeds, visit)
        progress(index + 1, count)


def head_tensors(model: ModelProto) -> list[str]:
    """The outputs before they are joined, reshaped and transposed."""
    made = producers(model)
    moved = (name for value in model.graph.output for name in moved_to(model, value.name))
    return list(dict.fromkeys(name for name in moved if name in made and made[name].op_type not in LAYOUT))


def _signs(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1.0


def _heads(graph: TorchGraph, names: list[str], batches: Iterator[np.ndarray]) -> dict[str, tuple[torch.Size, float]]:
    """Shape, and standard deviation over all elements of the images, of the tensors that aren't constant."""
    sums, elements = np.zeros((2, len(names))), np.zeros(len(names))
    for image in batches:
        values = graph.values(torch.from_numpy(image), names)
        for index, value in enumerate(values[name].double() for name in names):
            sums[:, index] += float(value.sum()), float(value.square().sum())
            elements[index] += value.numel()
    power = sums[1] / elements
    variances = power - (sums[0] / elements) ** 2
    told = zip(names, variances, power, strict=True)
    return {name: (values[name].shape, float(v) ** 0.5) for name, v, p in told if v > _CONSTANT * p}
