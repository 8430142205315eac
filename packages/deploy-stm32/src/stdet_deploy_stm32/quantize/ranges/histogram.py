"""A histogram of a stream of values whose range isn't known beforehand."""

from __future__ import annotations

import math

import numpy as np

CHUNK = 1 << 18
"""Values binned at once: bounds the temporaries and fits the cache."""


class Histogram:
    """Counts in at most `max_bins` equal bins whose width is a power of two and whose edges are multiples of it.

    When a value falls outside, the width doubles and neighbours are added up. Both are exact, so the result depends
    only on the set of values: not on their order, nor on how they were split into batches.

    Attributes:
        exponent: the bin width is 2 ** exponent.
        first: the first bin holds values in [first, first + 1) * 2 ** exponent.
        counts: int64, values by bin.
        minimum, maximum: of all values.
    """

    def __init__(self, max_bins: int = 4096) -> None:
        self.max_bins = max_bins
        self.exponent = -100
        self.first = 0
        self.counts = np.zeros(0, np.int64)
        self.minimum = math.inf
        self.maximum = -math.inf

    @property
    def width(self) -> float:
        return 2.0**self.exponent

    @property
    def edges(self) -> np.ndarray:
        """float64 (bins + 1,)."""
        return (self.first + np.arange(len(self.counts) + 1)) * self.width

    def add(self, values: np.ndarray) -> None:
        """Count `values`, float32, any shape, finite and not empty."""
        flat = values.reshape(-1)
        self.minimum = min(self.minimum, float(flat.min()))
        self.maximum = max(self.maximum, float(flat.max()))
        self._cover()
        scale = np.float32(2.0**-self.exponent)
        for start in range(0, flat.size, CHUNK):
            bins = np.floor(flat[start : start + CHUNK] * scale).astype(np.intp)
            bins -= self.first
            self.counts += np.bincount(bins, minlength=len(self.counts))

    def _cover(self) -> None:
        """Make the bins reach from the minimum to the maximum, with the smallest width that allows it."""
        exponent = max(self.exponent, _smallest_exponent(self.minimum, self.maximum, self.max_bins))
        low, high = (math.floor(v * 2.0**-exponent) for v in (self.minimum, self.maximum))
        counts = np.zeros(high - low + 1, np.int64)
        if len(self.counts):
            old = (self.first + np.arange(len(self.counts))) >> (exponent - self.exponent)
            np.add.at(counts, old - low, self.counts)
        self.exponent, self.first, self.counts = exponent, low, counts


def _smallest_exponent(minimum: float, maximum: float, max_bins: int) -> int:
    """Of the bin width: few enough bins, and bin numbers that float32 holds exactly."""
    magnitude = max(abs(minimum), abs(maximum))
    if magnitude == 0.0:
        return -100
    exponent = max(math.frexp(magnitude)[1] - 23, -100)
    while math.floor(maximum * 2.0**-exponent) - math.floor(minimum * 2.0**-exponent) >= max_bins:
        exponent += 1
    return exponent
