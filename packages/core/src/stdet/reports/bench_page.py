"""`bench.html`: what a model costs, to look at. One file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from stdet.interfaces.deploy import BenchReport
from stdet.reports.bench_table import KIB, KINDS, bench_tables, latency_text, verdict
from stdet.reports.page import table_html, whole_page
from stdet.structures import Table

WIDTH, HEIGHT = 900, 240
LEFT, BOTTOM, TOP = 70, 30, 14
PROCESSORS = {"NPU": "#2a7f62", "CPU": "#c0392b", "depends": "#d68910"}
INSIDE, OUTSIDE, OTHER = "#3a6ea5", "#c0392b", "#7f8c8d"
SLOWEST = 15
"""Layers in the picture of time."""


def bench_page(reports: Sequence[BenchReport], accuracy: Mapping[str, float] | None = None) -> str:
    """The page of some bench reports, as HTML.

    Args:
        accuracy: score 0..1 by the SHA-256 of a model, as far as known; compared with latency and RAM.
    """
    parts = ["<h1>What it costs</h1>", *(table_html(table) for table in bench_tables(reports))]
    if len({report.sha256 for report in reports}) > 1:
        parts.append(_comparison(reports, accuracy or {}))
    parts += [_report(report) for report in reports if report.details.get("layers")]
    return whole_page("bench", "".join(parts))


def _report(report: BenchReport) -> str:
    layers: list[dict[str, Any]] = report.details["layers"]
    latency = f"latency {escape(latency_text(report))} ms {KINDS[report.latency_kind]}"
    told = f"{escape(report.device)}: {verdict(report)}, {latency}"
    parts = [f"<h2>{escape(report.model)} ({escape(report.backend)})</h2><p>{told}</p>", _memory(report, layers)]
    if any(layer["latency_ms"] is not None for layer in layers):
        parts.append(_time([layer for layer in layers if layer["latency_ms"] is not None]))
    return "".join([*parts, _processors(report), _layers(layers)])


def _memory(report: BenchReport, layers: Sequence[Mapping[str, Any]]) -> str:
    """RAM at each layer, inside and outside, with the limits of the pools."""
    inside = [layer["internal_bytes"] for layer in layers]
    outside = [layer["external_bytes"] for layer in layers]
    limits, total = [], 0
    for pool in report.details.get("pools", []):
        total += pool["bytes"]
        limits.append((pool["name"], total))
    top = max([i + o for i, o in zip(inside, outside, strict=True)] + [size for _, size in limits] + [1]) * 1.05
    step = (WIDTH - LEFT) / max(len(layers), 1)
    bars = []
    for index, (i, o, layer) in enumerate(zip(inside, outside, layers, strict=True)):
        x = LEFT + index * step
        title = f"<title>{escape(layer['name'])}: {i / KIB:.1f} KiB inside, {o / KIB:.1f} KiB outside</title>"
        bars.append(f"<g>{title}{_bar(x, step, 0, i, top, INSIDE)}{_bar(x, step, i, o, top, OUTSIDE)}</g>")
    lines = "".join(
        f'{_dashed(LEFT, WIDTH, _y(size, top), _y(size, top))}<text x="{LEFT + 4}" y="{_y(size, top) - 4:.1f}">'
        f"{escape(name)} full: {size / KIB:.0f} KiB</text>"
        for name, size in limits
    )
    axis = f'<text x="4" y="{TOP + 8}">{top / KIB:.0f} KiB</text><text x="4" y="{HEIGHT - BOTTOM}">0</text>'
    foot = (
        f'<text x="{LEFT}" y="{HEIGHT - 8}">first layer</text><text x="{WIDTH - 62}" y="{HEIGHT - 8}">last layer</text>'
    )
    legend = f"<p>{_key(INSIDE, 'RAM of the chip')} {_key(OUTSIDE, 'RAM outside of it')}</p>"
    return f"<h3>RAM over time</h3>{legend}{_svg(HEIGHT, ''.join(bars) + lines + axis + foot)}"


def _y(value: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top)


def _bar(x: float, width: float, start: float, size: float, top: float, color: str) -> str:
    if not size:
        return ""
    high, low = _y(start + size, top), _y(start, top)
    return f'<rect x="{x:.2f}" y="{high:.1f}" width="{width + 0.3:.2f}" height="{low - high:.1f}" fill="{color}"/>'


def _svg(height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{content}</svg>'


def _dashed(x1: float, x2: float, y1: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="currentColor" stroke-dasharray="5 4"/>'


def _key(color: str, text: str) -> str:
    return f'<span style="color:{color}">■</span> {escape(text)}'


def _time(layers: Sequence[Mapping[str, Any]]) -> str:
    """The slowest layers."""
    slowest = sorted(layers, key=lambda layer: -layer["latency_ms"])[:SLOWEST]
    longest = max(layer["latency_ms"] for layer in slowest) or 1
    rows = []
    for index, layer in enumerate(slowest):
        width = (WIDTH - 420) * layer["latency_ms"] / longest
        y = 18 + index * 18
        color = PROCESSORS.get(layer.get("processor", ""), OTHER)
        name = f"{layer['op_type']} {layer['name']}"
        rows.append(
            f'<text x="0" y="{y}">{escape(name if len(name) < 52 else "…" + name[-50:])}</text>'
            f'<rect x="340" y="{y - 11}" width="{width:.1f}" height="13" fill="{color}"/>'
            f'<text x="{345 + width:.1f}" y="{y}">{layer["latency_ms"]:.3f} ms</text>'
        )
    return f"<h3>The slowest layers</h3>{_svg(24 + 18 * len(slowest), ''.join(rows))}"


def _processors(report: BenchReport) -> str:
    if not report.operators:
        return ""
    told = " ".join(f"{_key(PROCESSORS.get(p, OTHER), f'{p}: {count}')}" for p, count in report.operators.items())
    return f"<h3>Operators by processor</h3><p>{told}</p>"


def _layers(layers: Sequence[Mapping[str, Any]]) -> str:
    head = [
        "layer",
        "operator",
        "output",
        "processor",
        "MACC",
        "weights B",
        "inside KiB",
        "outside KiB",
        "ms",
        "why, and what to do",
    ]
    rows = [
        [
            layer["name"],
            layer["op_type"],
            " × ".join(str(side) for side in layer["output_shape"]),
            layer.get("processor", "–"),
            str(layer["macc"]),
            str(layer["weights_bytes"]),
            f"{layer['internal_bytes'] / KIB:.1f}",
            f"{layer['external_bytes'] / KIB:.1f}",
            "–" if layer["latency_ms"] is None else f"{layer['latency_ms']:.3f}",
            "; ".join(filter(None, [layer.get("reason"), layer.get("advice"), layer.get("source")])),
        ]
        for layer in layers
    ]
    return f"<details><summary>all {len(layers)} layers</summary>{table_html(Table('layers', head, rows))}</details>"


def _comparison(reports: Sequence[BenchReport], accuracy: Mapping[str, float]) -> str:
    """Accuracy against latency and against RAM: one picture for each kind of latency and device, and one of RAM."""
    known = [report for report in reports if report.sha256 in accuracy]
    if len({report.sha256 for report in known}) < 2:
        return (
            "<h2>Comparison</h2><p>No accuracy is known of at least two of these files: evaluate them, or compare int8 "
            "files that a run has scored.</p>"
        )
    parts = ["<h2>Comparison</h2>"]
    for kind, device in dict.fromkeys((r.latency_kind, r.device) for r in known if r.latency_ms is not None):
        chosen = [r for r in known if (r.latency_kind, r.device) == (kind, device) and r.latency_ms is not None]
        points = [(r.latency_ms or 0.0, accuracy[r.sha256], r) for r in chosen]
        parts.append(_scatter(f"accuracy against latency in ms, {KINDS[kind]}, {device}", points, []))
    for device in dict.fromkeys(r.device for r in known if r.activations_bytes is not None):
        chosen = [r for r in known if r.device == device and r.activations_bytes is not None]
        limit = sum(pool["bytes"] for pool in chosen[0].details.get("pools", [])) / KIB
        points = [((r.activations_bytes or 0) / KIB, accuracy[r.sha256], r) for r in chosen]
        parts.append(_scatter(f"accuracy against RAM in KiB, {device}", points, [limit] if limit else []))
    return "".join(parts)


def _scatter(title: str, points: Sequence[tuple[float, float, BenchReport]], limits: Sequence[float]) -> str:
    right = max([x for x, _, _ in points] + list(limits)) * 1.15 or 1
    top = max(y for _, y, _ in points) * 1.15 or 1
    marks = []
    for x, y, report in points:
        px, py = LEFT + (WIDTH - LEFT) * x / right, _y(y, top)
        color = OUTSIDE if report.fits is False else INSIDE
        side, anchor = (8, "start") if px < (LEFT + WIDTH) / 2 else (-8, "end")
        marks.append(
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5" fill="{color}"/>'
            f'<text x="{px + side:.1f}" y="{py + 4:.1f}" text-anchor="{anchor}">{escape(report.model)} '
            f"({x:.1f}, {y:.3f})</text>"
        )
    for limit in limits:
        px = LEFT + (WIDTH - LEFT) * limit / right
        marks.append(
            f"{_dashed(px, px, TOP, HEIGHT - BOTTOM)}"
            f'<text x="{px - 4:.1f}" y="{TOP + 8}" text-anchor="end">internal RAM {limit:.0f}</text>'
        )
    frame = (
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}" stroke="currentColor"/>'
        f'<line x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="currentColor"/>'
        f'<text x="4" y="{TOP + 8}">{top:.2f}</text><text x="{WIDTH - 60}" y="{HEIGHT - 8}">{right:.0f}</text>'
    )
    return f"<h3>{escape(title)}</h3>{_svg(HEIGHT, frame + ''.join(marks))}"
