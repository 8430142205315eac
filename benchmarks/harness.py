"""Timing for the benchmark scripts: variants interleaved in one run, ratios to a named baseline, spread stated.

The machine is shared: only ratios measured side by side mean anything, and only with their spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
SHARED = PROJECT.parent / "shared"


@dataclass(frozen=True)
class Timing:
    """Seconds of each round of one variant."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(
    variants: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Run every variant once a round, in turn, after one warm-up round that doesn't count.

    A variant that returns a float has timed itself, in seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name, variant in variants.items():
            start = clock()
            own = variant()
            elapsed = own if isinstance(own, float) else clock() - start
            if round_number:
                seconds[name].append(elapsed)
    return {name: Timing(values) for name, values in seconds.items()}


def report(
    title: str, timings: Mapping[str, Timing], baseline: str, unit: str = "ms", per: int = 1
) -> dict[str, object]:
    """Print a table and return it: median, range, and the median of the paired speed-ups over `baseline`.

    Args:
        unit: `ms` for time a call, or `/s` for `per` items a call as items a second.
        per: items handled in one call.
    """
    base = timings[baseline].seconds
    print(f"\n{title} (baseline: {baseline}; {len(base)} interleaved rounds)")
    rows: dict[str, object] = {}
    for name, timing in timings.items():
        ratios = [b / s for b, s in zip(base, timing.seconds, strict=True)]
        values = [per / s if unit == "/s" else 1000 * s / per for s in timing.seconds]
        ratio = statistics.median(ratios)
        print(
            f"  {name:42s} {statistics.median(values):9.2f} {unit:3s} [{min(values):.2f}-{max(values):.2f}]"
            f"   x{ratio:.2f} [{min(ratios):.2f}-{max(ratios):.2f}]"
        )
        rows[name] = {
            "median": statistics.median(values),
            "unit": unit,
            "speed_up": ratio,
            "range": [min(ratios), max(ratios)],
        }
    return {"title": title, "baseline": baseline, "rounds": len(base), "variants": rows}


def arguments(description: str, rounds: int) -> argparse.Namespace:
    """`--rounds`, `--json FILE` and the shared folder."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder that holds data/ and models/")
    return parser.parse_args()


def save(path: Path | None, results: list[dict[str, object]]) -> None:
    """Write `results` where `--json` said."""
    if path:
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
