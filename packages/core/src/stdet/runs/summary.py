"""The table at the end of a run: one row a form of the model, with what the stages found out about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from stdet.interfaces.deploy import BenchReport
from stdet.runs.record import RunRecord
from stdet.runs.results import Benched, Evaluated
from stdet.structures import Table

FORMS = ("float", "int8")
KINDS = {"vendor_estimate": "vendor's estimate", "model": "by a model"}
"""How a kind of latency is said where its own name doesn't."""
COUNTS: dict[str, tuple[Callable[[BenchReport], int | None], float, str]] = {
    "weights KiB": (lambda report: report.weights_bytes, 1024, ".1f"),
    "activations KiB": (lambda report: report.activations_bytes, 1024, ".1f"),
    "MACC M": (lambda report: report.macc, 1e6, ".2f"),
}
"""What is counted, each with its unit and its form: equal on all devices, but not by all backends."""


class Column(NamedTuple):
    """Columns stand in this order; columns of one rank in the order in which they were found."""

    rank: int
    title: str


def summary(record: RunRecord) -> Table:
    """No rows when no stage says anything about a form of the model.

    Latencies of two devices, of two kinds or of two backends are never in one column.
    """
    rows = {form: dict(_cells(record, form)) for form in FORMS}
    columns = sorted(dict.fromkeys(column for cells in rows.values() for column in cells), key=lambda c: c.rank)
    return Table(
        "result",
        ["model", *(column.title for column in columns)],
        [[form, *(cells.get(column, "–") for column in columns)] for form, cells in rows.items() if cells],
    )


def _cells(record: RunRecord, form: str) -> Iterator[tuple[Column, str]]:
    for evaluated in record.of(Evaluated):
        for metric in ("AP", "AP50") if evaluated.form == form else ():
            value, place = evaluated.report.metrics[metric], evaluated.report.model.get("place")
            yield Column(0, f"{metric} ({place})" if place else metric), "–" if value is None else f"{value:.4f}"
    files = [m for result in record.results.values() for m in result.models() if m.is_onnx and m.form == form]
    if files:
        yield Column(1, "size KiB"), f"{files[-1].path.stat().st_size / 1024:.1f}"
    measured = [entry for benched in record.of(Benched) for entry in benched.reports]
    reports = [report for _, report in measured]
    for report in (report for model, report in measured if model.form == form):
        for rank, (title, (count, unit, form_spec)) in enumerate(COUNTS.items(), 2):
            if (amount := count(report)) is not None:
                several = len({other.backend for other in reports if count(other) is not None}) > 1
                yield (
                    Column(rank, f"{title} ({report.backend})" if several else title),
                    format(amount / unit, form_spec),
                )
        if report.latency_ms is not None:
            yield Column(9, _latency_title(report, reports)), _latency(report)


def _latency_title(report: BenchReport, reports: list[BenchReport]) -> str:
    """What the latency is, where it holds, and who says so where several do."""
    alike = {r.backend for r in reports if (r.device, r.latency_kind) == (report.device, report.latency_kind)}
    said = [report.device, KINDS.get(report.latency_kind, report.latency_kind)]
    return f"latency ms ({', '.join([*filter(None, said), *([report.backend] if len(alike) > 1 else [])])})"


def _latency(report: BenchReport) -> str:
    doubt = "" if report.uncertainty_percent is None else f" ±{report.uncertainty_percent:.0f} %"
    return f"{report.latency_ms:.2f}{doubt}"
