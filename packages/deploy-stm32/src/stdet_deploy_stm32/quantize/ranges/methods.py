"""Methods that choose the range of an activation tensor. A new one is an `Observer` and a line in `METHODS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from stdet_deploy_stm32.quantize.ranges.histogram import Histogram

PERCENTILE = 99.9
"""Share of values, in percent, that the Percentile method keeps inside the range; half of the rest is cut each side."""

_LEVELS = 256
_CANDIDATES = 96


class Observer(ABC):
    """Sees one tensor's values, image by image, and then names the range to quantize. Its memory is bounded."""

    @abstractmethod
    def update(self, values: np.ndarray) -> None:
        """Take in one image's values: float32, any shape, finite, not empty."""

    @abstractmethod
    def range(self) -> tuple[float, float]:
        """(low, high) real values that the quantized tensor shall span."""


class MinMax(Observer):
    """The smallest and the largest value of all images."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def update(self, values: np.ndarray) -> None:
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def range(self) -> tuple[float, float]:
        return self.low, self.high


class AverageMinMax(Observer):
    """The mean over the images of each image's smallest and largest value (`CalibMovingAverage`).

    onnxruntime computes the same when it gets all images at once.
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.images = 0

    def update(self, values: np.ndarray) -> None:
        self.low += float(values.min())
        self.high += float(values.max())
        self.images += 1

    def range(self) -> tuple[float, float]:
        return self.low / self.images, self.high / self.images


class FromHistogram(Observer):
    """A range picked from the distribution of all values."""

    def __init__(self, pick: Callable[[Histogram], tuple[float, float]]) -> None:
        self.histogram = Histogram()
        self.pick = pick

    def update(self, values: np.ndarray) -> None:
        self.histogram.add(values)

    def range(self) -> tuple[float, float]:
        if self.histogram.minimum == self.histogram.maximum:
            return self.histogram.minimum, self.histogram.maximum
        return self.pick(self.histogram)


def percentile_range(histogram: Histogram, percentile: float = PERCENTILE) -> tuple[float, float]:
    """The central `percentile` percent of the values, linear inside a bin."""
    below = np.concatenate([[0], np.cumsum(histogram.counts)])
    tail = (100.0 - percentile) / 200.0 * below[-1]
    low = np.interp(tail, below, histogram.edges)
    high = np.interp(below[-1] - tail, below, histogram.edges)
    return max(float(low), histogram.minimum), min(float(high), histogram.maximum)


def entropy_range(histogram: Histogram) -> tuple[float, float]:
    """The clipping [-t, t], cut to the values' range, with the least Kullback-Leibler divergence between the values as
    they are and the values after 8-bit quantization.

    After Migacz, "8-bit inference with TensorRT" (2017), with ranges that need not be symmetric.
    """
    magnitude = max(-histogram.minimum, histogram.maximum)
    candidates = []
    for threshold in magnitude * np.geomspace(1 / 16, 1, _CANDIDATES):
        low, high = max(histogram.minimum, -threshold), min(histogram.maximum, threshold)
        if low < high:
            candidates.append((_divergence(histogram, low, high), -threshold, low, high))
    _, _, low, high = min(candidates)
    return float(low), float(high)


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """KL divergence of quantizing with the range [low, high]; values outside move to its ends."""
    centers = histogram.edges[:-1] + histogram.width / 2
    inside = (centers >= low) & (centers <= high)
    if not inside.any():
        return np.inf
    kept = histogram.counts[inside].astype(np.float64)
    truth = kept.copy()
    truth[0] += histogram.counts[centers < low].sum()
    truth[-1] += histogram.counts[centers > high].sum()
    level = np.minimum(((centers[inside] - low) / (high - low) * _LEVELS).astype(np.intp), _LEVELS - 1)
    occupied = kept > 0
    per_level = np.bincount(level, kept, _LEVELS) / np.maximum(np.bincount(level, occupied, _LEVELS), 1)
    model = np.where(occupied, per_level[level], 0.0)
    truth /= truth.sum()
    model = np.maximum(model / max(model.sum(), 1.0), 1e-12)
    filled = truth > 0
    return float(np.sum(truth[filled] * np.log(truth[filled] / model[filled])))


def mse_range(histogram: Histogram) -> tuple[float, float]:
    """The range with the least mean squared error of the tensor itself."""
    centers = histogram.edges[:-1] + histogram.width / 2
    return least_error_range(centers, histogram.counts.astype(np.float64), histogram.minimum, histogram.maximum)


def least_error_range(
    centers: np.ndarray, weights: np.ndarray, minimum: float, maximum: float, levels: int = _LEVELS
) -> tuple[float, float]:
    """The range, 0 inside, whose quantization to `levels` values has the least weighted squared error.

    Args:
        centers, weights: float64 (bins,), of a histogram.
        minimum, maximum: of the values.
    """
    shares = np.geomspace(1 / 256, 1, _CANDIDATES)
    lows = minimum * shares if minimum < 0 else np.zeros(1)
    highs = maximum * shares if maximum > 0 else np.zeros(1)
    low, high = (grid.reshape(-1) for grid in np.meshgrid(lows, highs))
    best = int(np.argmin(range_error(centers, weights, low, high, levels)))
    return float(low[best]), float(high[best])


def range_error(
    centers: np.ndarray, weights: np.ndarray, low: np.ndarray, high: np.ndarray, levels: int = _LEVELS
) -> np.ndarray:
    """Sum of weight x squared error over each range: a twelfth of a squared step inside, the distance outside.

    Args:
        centers, weights: float64 (bins,), of a histogram; centers ascend.
        low, high: ends of the ranges, of one shape.
    """
    zeroth, first, second = (np.concatenate([[0.0], np.cumsum(weights * centers**n)]) for n in range(3))
    below, above = np.searchsorted(centers, low), np.searchsorted(centers, high, side="right")
    under = second[below] - 2 * low * first[below] + low**2 * zeroth[below]
    over = (second[-1] - second[above]) - 2 * high * (first[-1] - first[above]) + high**2 * (zeroth[-1] - zeroth[above])
    inside = (zeroth[above] - zeroth[below]) * ((high - low) / (levels - 1)) ** 2 / 12
    return np.asarray(np.maximum(under, 0) + np.maximum(over, 0) + inside)


METHODS: dict[str, Callable[[], Observer]] = {
    "MinMax": MinMax,
    "Entropy": lambda: FromHistogram(entropy_range),
    "Percentile": lambda: FromHistogram(percentile_range),
    "MSE": lambda: FromHistogram(mse_range),
}
"""Methods that look at each tensor by itself; each makes the observer of one."""
