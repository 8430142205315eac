from __future__ import annotations

import numpy as np
import pytest

from stdet_deploy_stm32.quantize.ranges import methods
from stdet_deploy_stm32.quantize.ranges.histogram import Histogram


def seen(method: str, values: np.ndarray) -> tuple[float, float]:
    observer = methods.METHODS[method]()
    for row in values:
        observer.update(row.astype(np.float32))
    return observer.range()


def test_minmax_is_the_smallest_and_the_largest_of_all_images() -> None:
    values = np.random.default_rng(0).normal(0, 1, (5, 100)).astype(np.float32)
    assert seen("MinMax", values) == (values.min(), values.max())


def test_the_average_is_over_the_images_extremes() -> None:
    observer = methods.AverageMinMax()
    observer.update(np.array([-1.0, 4.0], np.float32))
    observer.update(np.array([-3.0, 8.0], np.float32))
    assert observer.range() == (-2.0, 6.0)


def test_percentile_agrees_with_numpy_over_the_whole_set_to_within_a_bin() -> None:
    values = np.random.default_rng(0).normal(1, 2, (20, 100_000)).astype(np.float32)
    low, high = seen("Percentile", values)
    tail = (100 - methods.PERCENTILE) / 2
    expected = np.percentile(values, [tail, 100 - tail])
    bin_width = np.ptp(values) / 2048
    assert np.abs(np.array([low, high]) - expected).max() <= bin_width


def test_percentile_never_leaves_the_values() -> None:
    values = np.array([[0.0] * 5 + [1.0] * 5], np.float32)
    low, high = seen("Percentile", values)
    assert 0.0 <= low < high <= 1.0


@pytest.mark.parametrize("method", sorted(methods.METHODS))
@pytest.mark.parametrize("constant", [0.0, 3.5, -1e-30, 7e9])
def test_a_constant_tensor_keeps_its_value(method: str, constant: float) -> None:
    low, high = seen(method, np.full((3, 50), constant))
    assert low == high == np.float32(constant)


def test_entropy_cuts_a_lone_outlier_and_keeps_a_flat_distribution() -> None:
    rng = np.random.default_rng(0)
    bell = rng.normal(0, 1, (1, 200_000))
    bell[0, 0] = 60.0
    assert seen("Entropy", bell)[1] < 20
    low, high = seen("Entropy", rng.uniform(-1, 1, (1, 200_000)))
    assert low < -0.95
    assert high > 0.95


def test_entropy_of_non_negative_values_starts_at_their_minimum() -> None:
    low, _ = seen("Entropy", np.abs(np.random.default_rng(0).normal(0, 1, (2, 10_000))))
    assert 0 <= low < 1e-3


def test_the_divergence_matches_a_slow_count() -> None:
    """Migacz's recipe in plain Python on a small histogram."""
    histogram = Histogram(4096)
    histogram.add(np.random.default_rng(2).laplace(0, 1, 5000).astype(np.float32))
    low, high = -2.0, 2.5
    centers = histogram.edges[:-1] + histogram.width / 2
    inside = [i for i, c in enumerate(centers) if low <= c <= high]
    truth = [float(histogram.counts[i]) for i in inside]
    groups: dict[int, list[int]] = {}
    for position, i in enumerate(inside):
        groups.setdefault(min(int((centers[i] - low) / (high - low) * 256), 255), []).append(position)
    model = [0.0] * len(inside)
    for members in groups.values():
        occupied = [p for p in members if truth[p] > 0]
        for p in occupied:
            model[p] = sum(truth[q] for q in members) / len(occupied)
    truth[0] += sum(histogram.counts[: inside[0]])
    truth[-1] += sum(histogram.counts[inside[-1] + 1 :])
    total, kept = sum(truth), sum(model)
    expected = sum(
        t / total * np.log((t / total) / max(m / kept, 1e-12)) for t, m in zip(truth, model, strict=True) if t
    )
    assert methods._divergence(histogram, low, high) == pytest.approx(expected, rel=1e-9)
