"""How far chance goes: what another draw of images might have scored, by the bootstrap (Efron, 1979).

Images are drawn with replacement, the same ones for both models, and average precision is computed from the matches that
COCO's rules found once. A difference whose interval holds 0 isn't measured, whatever its sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 400
LEVEL = 0.95
METRICS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
"""Which of COCO's ten IoU thresholds each metric takes."""
_FEWEST = 2
_BLOCK = 1 << 16  # elements of a block of draws by detections: it stays in the cache


@dataclass(frozen=True)
class ClassMatches:
    """What COCO's rules say of one class's detections, all sizes, at most 100 an image, best first.

    Attributes:
        image: int (D,), index of the image.
        true, false: bool (T, D), at each IoU threshold; neither where the detection doesn't count.
        objects: int (images,), how many there are to find.
        score: float64 (D,), 0..1.
    """

    image: np.ndarray
    true: np.ndarray
    false: np.ndarray
    objects: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Interval:
    """Attributes:
    low, high: bounds that hold `LEVEL` of the draws, in points (hundredths).
    deviation: standard deviation of the draws.
    """

    low: float
    high: float
    deviation: float

    @property
    def holds_zero(self) -> bool:
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        return f"{self.low:+.2f} to {self.high:+.2f}"


def difference(
    one: Sequence[ClassMatches], other: Sequence[ClassMatches], images: int, draws: int = DRAWS
) -> dict[str, Interval]:
    """How far `one` minus `other` reaches, in points by metric, when images are drawn anew; empty below two images.

    Args:
        one, other: the same classes and images.
    """
    better, worse = drawn(one, images, draws), drawn(other, images, draws)
    found = {name: interval(100 * (better[name] - worse[name])) for name in better}
    return {name: one for name, one in found.items() if one is not None}


def drawn(matches: Sequence[ClassMatches], images: int, draws: int = DRAWS) -> dict[str, np.ndarray]:
    """What each metric of `METRICS` is, 0..1, float64 (draws,), when images are drawn anew; empty below two images.

    The draws are the same for every model, so that what two models score can be subtracted. NaN for a draw without objects.
    """
    if images < _FEWEST:
        return {}
    rng = np.random.default_rng(0)
    weights = np.stack([np.bincount(rng.integers(0, images, images), minlength=images) for _ in range(draws)])
    return mean_precisions(matches, weights)


def interval(values: np.ndarray) -> Interval | None:
    """What holds `LEVEL` of the draws' values, float64 (draws,), in points; None where all are NaN."""
    known = values[np.isfinite(values)]
    if not known.size:
        return None
    low, high = np.percentile(known, (50 * (1 - LEVEL), 100 - 50 * (1 - LEVEL)))
    return Interval(round(float(low), 3), round(float(high), 3), round(float(known.std()), 3))


def mean_precisions(classes: Sequence[ClassMatches], weights: np.ndarray) -> dict[str, np.ndarray]:
    """Mean average precision (draws,) of each metric, 0..1; NaN for a draw that shows no object.

    Args:
        weights: int (draws, images), how often each image was drawn.
    """
    each = np.stack([_precisions(one, weights) for one in classes])  # (classes, draws, T)
    known = np.isfinite(each[..., 0])
    count = known.sum(0)
    sums = np.where(known[..., None], each, 0.0).sum(0)
    mean = np.divide(sums, count[:, None], out=np.full(sums.shape, np.nan), where=count[:, None] > 0)
    return {name: mean[:, part].mean(1) for name, part in METRICS.items()}


def _precisions(one: ClassMatches, weights: np.ndarray) -> np.ndarray:
    """(draws, T) average precision of a class at 101 recalls; NaN where a draw shows none of its objects."""
    if not one.objects.any():
        return np.full((len(weights), len(one.true)), np.nan)
    step = max(_BLOCK // max(len(one.image), 1), 1)
    blocks = [_block(one, weights[start : start + step]) for start in range(0, len(weights), step)]
    return np.concatenate(blocks)


def _block(one: ClassMatches, weights: np.ndarray) -> np.ndarray:
    recalls = np.linspace(0, 1, 101)
    objects = weights @ one.objects
    shown = objects > 0
    counted = weights[shown][:, one.image].astype(np.float64)
    found = np.full((len(weights), len(one.true)), np.nan)
    for t, (is_true, is_false) in enumerate(zip(one.true, one.false, strict=True)):
        at = np.flatnonzero(is_true)  # between them precision falls and recall stays
        true, false = np.cumsum(counted[:, at], 1), np.cumsum(counted * is_false, 1)[:, at]
        precision = true / (true + false + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        reached = np.searchsorted(recalls, true / objects[shown, None], side="right")
        found[shown, t] = (best * np.diff(reached, axis=1, prepend=0)).sum(1) / len(recalls)
    return found
