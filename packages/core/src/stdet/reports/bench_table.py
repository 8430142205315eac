"""Bench reports as tables. Every latency stands with its kind and its error; kinds are never mixed in a column."""

from __future__ import annotations

from collections.abc import Sequence

from stdet.interfaces.deploy import BenchReport, LatencyKind
from stdet.structures import Table

KIB = 1024
KINDS: dict[LatencyKind, str] = {
    "measured": "measured",
    "vendor_estimate": "vendor's estimate",
    "model": "by a formula",
    "none": "",
}
"""How people are told what a latency is."""
NOTHING = "–"


def verdict(report: BenchReport) -> str:
    """Whether the device has room, in a word."""
    return {True: "fits", False: "DOES NOT FIT", None: NOTHING}[report.fits]


def latency_text(report: BenchReport) -> str:
    """The latency with its error, its spread or the reason why there is none."""
    if report.latency_ms is None:
        return "none" if report.latency_reason else NOTHING
    text = f"{report.latency_ms:.2f}" if report.latency_ms < 100 else f"{report.latency_ms:.0f}"
    if report.uncertainty_percent is not None:
        return f"{text} ± {report.uncertainty_percent:.0f} %"
    if report.latency_p10_ms is not None and report.latency_p90_ms is not None:
        return f"{text} ({report.latency_p10_ms:.2f} to {report.latency_p90_ms:.2f})"
    return text


def bench_tables(reports: Sequence[BenchReport]) -> tuple[Table, ...]:
    """One row a report, then what is to be said about them."""
    kinds = list(dict.fromkeys(r.latency_kind for r in reports if r.latency_ms is not None))
    head = ["model", "board or device", "verdict"]
    head += [f"latency ms ({KINDS[kind]})" for kind in kinds]
    head += ["flash KiB", "RAM inside KiB", "RAM outside KiB", "MACC M", "instructions M", "operators", "backend"]
    rows = [_row(report, kinds) for report in reports]
    filled = [i for i in range(len(head)) if i < 3 or any(row[i] != NOTHING for row in rows)]
    table = Table("bench", [head[i] for i in filled], [[row[i] for i in filled] for row in rows])
    remarks = _remarks(reports)
    return (table, Table("remarks", ["model", "remark"], remarks)) if remarks else (table,)


def _row(report: BenchReport, kinds: Sequence[LatencyKind]) -> list[str]:
    operators = ", ".join(f"{count} {processor}" for processor, count in report.operators.items())
    own = [kind for kind in kinds if kind == report.latency_kind or (report.latency_reason and kind != "measured")]
    return [
        report.model,
        report.device or NOTHING,
        verdict(report),
        *(latency_text(report) if kind in own else NOTHING for kind in kinds),
        _kib(report.weights_bytes),
        _kib(_inside(report)),
        _kib(report.activations_external_bytes or None),
        NOTHING if report.macc is None else f"{report.macc / 1e6:.1f}",
        NOTHING if report.instructions is None else f"{report.instructions / 1e6:.2f}",
        operators or NOTHING,
        report.backend,
    ]


def _inside(report: BenchReport) -> int | None:
    return report.activations_bytes if report.activations_internal_bytes is None else report.activations_internal_bytes


def _kib(size_bytes: int | None) -> str:
    return NOTHING if size_bytes is None else f"{size_bytes / KIB:.1f}"


def _remarks(reports: Sequence[BenchReport]) -> list[list[str]]:
    """Notes, reasons and where numbers come from; what several reports say stands once."""
    said: dict[str, list[str]] = {}
    for report in reports:
        reason = [f"no latency: {report.latency_reason}"] if report.latency_reason else []
        for text in (*reason, *report.notes, *filter(None, [report.provenance])):
            said.setdefault(text, []).append(report.model)
    return [[", ".join(dict.fromkeys(models)), text] for text, models in said.items()]
