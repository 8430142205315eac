"""The table at the end of a run: one row a form of the model, with what the stages found out about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from stdet.structures import Table

FORMS = ("float", "int8")
KINDS = {"vendor_estimate": "vendor's estimate", "model": "by a model"}
"""How a kind of latency is said where its own name doesn't."""
COUNTS = {
    "weights KiB": ("weights_bytes", 1024, ".1f"),
    "activations KiB": ("activations_bytes", 1024, ".1f"),
    "MACC M": ("macc", 1e6, ".2f"),
}
"""What is counted: its name in a report, its unit and its form: equal on all devices, but not by all backends."""


class Column(NamedTuple):
    """Columns stand in this order; columns of one rank in the order in which they were found."""

    rank: int
    title: str


def summary(document: Mapping[str, Any]) -> Table:
    """No rows when no stage says anything about a form of the model.

    Latencies of two devices, of two kinds or of two backends are never in one column.

    Args:
        document: a run's, as `run.json` has it.
    """
    rows = {form: dict(_cells(document, form)) for form in FORMS}
    columns = sorted(dict.fromkeys(column for cells in rows.values() for column in cells), key=lambda c: c.rank)
    return Table(
        "result",
        ["model", *(column.title for column in columns)],
        [[form, *(cells.get(column, "–") for column in columns)] for form, cells in rows.items() if cells],
    )


def _cells(document: Mapping[str, Any], form: str) -> Iterator[tuple[Column, str]]:
    stages = document["stages"]
    evaluated = stages.get(f"evaluate_{form}", {"metrics": {}})
    for metric in ("AP", "AP50") if evaluated["metrics"] else ():
        value, place = evaluated["metrics"].get(metric), evaluated["model"].get("place")
        yield Column(0, f"{metric} ({place})" if place else metric), "–" if value is None else f"{value:.4f}"
    if file := document["onnx"].get(form):
        yield Column(1, "size KiB"), f"{file['bytes'] / 1024:.1f}"
    reports = stages.get("bench", [])
    for report in (report for report in reports if report["form"] == form):
        for rank, (title, (count, unit, form_spec)) in enumerate(COUNTS.items(), 2):
            if (amount := report[count]) is not None:
                several = len({other["backend"] for other in reports if other[count] is not None}) > 1
                yield (
                    Column(rank, f"{title} ({report['backend']})" if several else title),
                    format(amount / unit, form_spec),
                )
        if report["latency_ms"] is not None:
            yield Column(9, _latency_title(report, reports)), _latency(report)


def _latency_title(report: Mapping[str, Any], reports: list[Mapping[str, Any]]) -> str:
    """What the latency is, where it holds, and who says so where several do."""
    place, kind = report["device"], report["latency_kind"]
    alike = {r["backend"] for r in reports if (r["device"], r["latency_kind"]) == (place, kind)}
    said = [place, KINDS.get(kind, kind)]
    return f"latency ms ({', '.join([*filter(None, said), *([report['backend']] if len(alike) > 1 else [])])})"


def _latency(report: Mapping[str, Any]) -> str:
    doubt = "" if report["uncertainty_percent"] is None else f" ±{report['uncertainty_percent']:.0f} %"
    return f"{report['latency_ms']:.2f}{doubt}"
