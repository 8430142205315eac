"""Latency from counts: coefficients that were fitted to published figures, and how far they were off."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True)
class Error:
    """How far the estimates of one kind of network were off when all rows of its family were left out of the fit.

    Attributes:
        median_percent, worst_percent: of the absolute relative errors.
        rows, families: how many there were.
    """

    median_percent: float
    worst_percent: float
    rows: int
    families: int


@dataclass(frozen=True)
class LatencyModel:
    """Cycles for each thing that takes time on one processor.

    Attributes:
        name: `neural-art` or `cortex-m7`.
        stands_for: tool version and board whose published figures it reproduces.
        fitted: date of the fit, ISO.
        clock_mhz: at which those ran.
        cycles: for one of each count.
        errors: by regime, `inside`, `spilled` or `all`.
        most_slow_elements: the largest count of slow elements among the rows; None where there is no such count.
    """

    name: str
    stands_for: str
    fitted: str
    clock_mhz: int
    cycles: Mapping[str, float]
    errors: Mapping[str, Error]
    most_slow_elements: float | None = None

    def total(self, names: Sequence[str], counts: Sequence[float]) -> float:
        """Cycles of something with these counts."""
        return sum(self.cycles[name] * count for name, count in zip(names, counts, strict=True))


@cache
def latency_models() -> dict[str, LatencyModel]:
    """All of `coefficients.json`, by name."""
    text = resources.files(__package__).joinpath("coefficients.json").read_text(encoding="utf-8")
    return {
        entry["name"]: LatencyModel(**entry | {"errors": {k: Error(**v) for k, v in entry["errors"].items()}})
        for entry in json.loads(text)["models"]
    }
