"""Pictures of a ranking and of a search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stdet.artifacts import atomic_path
from stdet_deploy_stm32.quantize.inspection import Effect

_COLOURS = {"activation": "tab:orange", "weight": "tab:blue"}
_BARS = 30


def plot_ranking(effects: Sequence[Effect], path: Path) -> None:
    """The most harmful tensors as bars, longest first: how far the noise of each alone lies below the signal, as PNG."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = list(effects[:_BARS])
    figure = Figure(figsize=(10, 1.5 + 0.24 * len(shown)), layout="constrained")
    axes = figure.subplots()
    values = [min(e.worst_db, 100.0) for e in shown]
    bars = axes.barh(range(len(shown)), values, color=[_COLOURS[e.kind] for e in shown])
    axes.set_yticks(range(len(shown)), [f"{_short(e.tensor)}  ({e.layer})" for e in shown], fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set(
        xlabel="SQNR of the worst output, dB, with only this tensor quantized (short bar: much damage)",
        title=f"the {len(shown)} most harmful of {len(effects)} tensors",
    )
    axes.bar_label(bars, [f" {e.worst_db:.1f}" for e in shown], fontsize=7)
    axes.legend(handles=[Patch(color=c, label=k) for k, c in _COLOURS.items()], loc="upper right")
    axes.grid(axis="x", alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def plot_search(trials: Sequence[dict[str, Any]], floating: float, budget: float, metric: str, path: Path) -> None:
    """Each trial, in the order of the search: the points it loses, its score and share of int16 activation bytes, as PNG.

    Up to a point the scale is linear, beyond it logarithmic: what decides lies close to the budget.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 + 0.26 * len(trials)), layout="constrained")
    axes = figure.subplots()
    lost = [100 * (floating - trial["score"]) for trial in trials]
    colours = ["tab:green" if trial["score"] >= floating - budget / 100 else "tab:red" for trial in trials]
    axes.scatter(lost, range(len(trials)), color=colours, zorder=3)
    axes.axvline(0, color="black", linewidth=1, label=f"float, {metric} {floating:.4f}")
    axes.axvline(budget, color="tab:gray", linestyle="--", label=f"budget, {budget:g} points")
    axes.set_yticks(range(len(trials)), [trial["label"] for trial in trials], fontsize=8)
    axes.invert_yaxis()
    told = axes.secondary_yaxis("right")
    told.set_yticks(
        range(len(trials)), [f"{t['score']:.4f}   {t['int16_share']:.1%} int16" for t in trials], fontsize=8
    )
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(min(0.0, *lost) - 0.3, 1.5 * max(1.0, budget, *lost))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=f"points of {metric} lost against float", title="full_auto: every trial")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _short(name: str) -> str:
    return name if len(name) <= 48 else f"…{name[-47:]}"
