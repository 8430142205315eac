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
    """Each trial's score against its share of int16 activation bytes, with the float score and the budget, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for trial in trials:
        ok = trial["score"] >= floating - budget / 100
        axes.plot(100 * trial["int16_share"], trial["score"], "o", color="tab:green" if ok else "tab:red")
        axes.annotate(
            trial["label"],
            (100 * trial["int16_share"], trial["score"]),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=7,
        )
    axes.axhline(floating, color="black", linewidth=1, label=f"float {floating:.4f}")
    axes.axhline(floating - budget / 100, color="tab:gray", linestyle="--", label=f"budget: {budget:g} points below")
    axes.set(xlabel="activation bytes in int16, %", ylabel=metric, title="full_auto: every trial")
    axes.margins(x=0.35)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _short(name: str) -> str:
    return name if len(name) <= 48 else f"…{name[-47:]}"
