from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stdet_deploy_stm32.quantize.ranges.histogram import Histogram

FLOATS = st.floats(-1e6, 1e6, width=32).map(lambda x: 0.0 if abs(x) < 1e-20 else x)
BATCHES = st.lists(st.lists(FLOATS, min_size=1, max_size=30), min_size=1, max_size=8)


def filled(batches: list[list[float]], bins: int) -> Histogram:
    histogram = Histogram(bins)
    for batch in batches:
        histogram.add(np.array(batch, np.float32))
    return histogram


@given(BATCHES, st.sampled_from([4, 16, 256]))
def test_batches_give_the_histogram_of_the_whole_set(batches: list[list[float]], bins: int) -> None:
    histogram = filled(batches, bins)
    values = np.array([float(np.float32(x)) for batch in batches for x in batch])
    oracle = [math.floor(x / 2.0**histogram.exponent) - histogram.first for x in values]
    assert np.array_equal(histogram.counts, np.bincount(oracle, minlength=len(histogram.counts)))
    assert len(histogram.counts) <= bins
    assert (histogram.minimum, histogram.maximum) == (values.min(), values.max())


@given(BATCHES, st.randoms(use_true_random=False))
def test_the_order_of_the_batches_makes_no_difference(batches: list[list[float]], random: object) -> None:
    shuffled = list(batches)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, two = filled(batches, 64), filled(shuffled, 64)
    assert (one.exponent, one.first) == (two.exponent, two.first)
    assert np.array_equal(one.counts, two.counts)


def test_a_wide_set_uses_more_than_half_of_the_bins() -> None:
    rng = np.random.default_rng(0)
    assert len(filled([rng.normal(0, 3, 1000).tolist()], 4096).counts) > 2048


def test_numpy_counts_the_same_between_the_same_edges() -> None:
    values = np.random.default_rng(1).normal(5, 2, (7, 4000)).astype(np.float32)
    histogram = Histogram(512)
    for row in values:
        histogram.add(row)
    counts, _ = np.histogram(values.astype(np.float64), histogram.edges)
    assert np.array_equal(counts, histogram.counts)
