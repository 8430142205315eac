"""`report.html`: what a model scores, and where it fails, to look at."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from stdet.evaluation.chance import DRAWS, LEVEL, Interval
from stdet.evaluation.coco import EvaluationReport
from stdet.evaluation.findings import ERROR_KINDS, IOU, Findings
from stdet.reports.page import table_html, whole_page
from stdet.structures import Table

NOTHING = "–"
MOST_CLASSES = 30
"""Beyond so many classes, the confusions are a list."""
_STYLE = """
.curves{display:flex;flex-wrap:wrap;gap:.8rem}.curves figure{flex:0 0 min(190px,47%)}figure{margin:0}
figcaption{font-size:.86rem}figure img{width:100%;height:auto}.worst figure{margin:0 0 1rem}
.matrix td{text-align:right;min-width:2rem}.matrix th{vertical-align:bottom}
"""


@dataclass(frozen=True)
class Compared:
    """Another report of the same images.

    Attributes:
        name: what to call it.
        report: its numbers.
        chance: how far this report minus that one reaches when images are drawn anew, in points by metric.
    """

    name: str
    report: EvaluationReport
    chance: Mapping[str, Interval]


@dataclass(frozen=True)
class Picture:
    """Attributes:
    caption: what it shows.
    jpeg: the file's bytes.
    """

    caption: str
    jpeg: bytes


def evaluation_page(
    name: str,
    report: EvaluationReport,
    found: Findings,
    chance: Mapping[str, Interval],
    others: Sequence[Compared] = (),
    pictures: Sequence[Picture] = (),
) -> str:
    """The page of one evaluation, as HTML.

    Args:
        name: of the model.
        found: what lies behind the score.
        chance: how far the metrics reach when images are drawn anew, in points.
        others: what it is compared with.
        pictures: of the worst images, truth and detections side by side.
    """
    about = (
        f"{report.images} images, {report.ground_truths} objects, {report.detections} detections with a score of at least "
        f"{report.thresholds.confidence:g}."
    )
    parts = [f"<h1>{escape(name)}</h1><p>{about}</p>", _numbers(report, chance)]
    parts += [_comparison(report, other) for other in others]
    parts += [_classes(report, found), _curves(report, found), _confusion(report, found), _errors(found)]
    parts.append(_worst(pictures))
    return whole_page("evaluation", "".join(parts), _STYLE)


def comparison_table(report: EvaluationReport, other: Compared) -> Table:
    """Both reports' metrics, the difference in points, and whether it is beyond chance."""
    rows = []
    for metric, value in report.metrics.items():
        theirs = other.report.metrics.get(metric)
        points = NOTHING if value is None or theirs is None else f"{100 * (value - theirs):+.2f}"
        reach = other.chance.get(metric)
        verdict = NOTHING if reach is None else "within chance" if reach.holds_zero else "beyond chance"
        rows.append([metric, _number(value), _number(theirs), points, str(reach or NOTHING), verdict])
    return Table(
        f"against {other.name}", ["metric", "this", "other", "points", f"{LEVEL:.0%} of the draws", "difference"], rows
    )


def _number(value: float | None) -> str:
    return NOTHING if value is None or np.isnan(value) else f"{value:.3f}"


def _numbers(report: EvaluationReport, chance: Mapping[str, Interval]) -> str:
    rows = []
    for metric, value in report.metrics.items():
        reach = chance.get(metric)
        rows.append([metric, _number(value), f"{reach.low / 100:.3f} to {reach.high / 100:.3f}" if reach else NOTHING])
    note = (
        f"<p>The interval holds {LEVEL:.0%} of {DRAWS} draws of as many images, with replacement. Numbers of sizes and of "
        "recall have none.</p>"
    )
    return f"<h2>Score</h2>{table_html(Table('COCO', ['metric', 'value', 'interval'], rows))}{note}"


def _comparison(report: EvaluationReport, other: Compared) -> str:
    return f"<h2>Comparison</h2>{table_html(comparison_table(report, other))}"


def _classes(report: EvaluationReport, found: Findings) -> str:
    rows = [
        [
            name,
            *(_number(value) for value in (report.per_class[name]["AP"], report.per_class[name]["AP50"])),
            *(_number(value) for value in (one.precision, one.recall, one.f1, one.best_f1, one.best_threshold)),
            str(one.objects),
        ]
        for name, one in zip(report.per_class, found.classes, strict=True)
    ]
    head = ["class", "AP", "AP50", "precision", "recall", "F1", "best F1", "at score", "objects"]
    title = f"precision, recall and F1 from a score of {found.threshold:g} on, at IoU {IOU:g}"
    return f"<h2>Classes</h2>{table_html(Table(title, head, rows))}"


def _curves(report: EvaluationReport, found: Findings) -> str:
    figures = "".join(
        _curve(name, one.curve) for name, one in zip(report.per_class, found.classes, strict=True) if one.objects
    )
    return f'<h2>Precision over recall, at IoU {IOU:g}</h2><div class="curves">{figures}</div>'


def _curve(name: str, precision: np.ndarray) -> str:
    points = " ".join(f"{24 + 1.7 * i:.0f},{108 - 100 * y:.1f}" for i, y in enumerate(precision))
    return (
        f'<figure><svg viewBox="0 0 200 126" role="img"><path d="M24 8V108H194" fill="none" stroke="currentColor"/>'
        f'<text x="14" y="16">1</text><text x="14" y="108">0</text><text x="24" y="122">0</text>'
        f'<text x="188" y="122">1</text><polyline points="{points}" fill="none" stroke="#3a6ea5" stroke-width="2"/></svg>'
        f"<figcaption>{escape(name)}: {precision.mean():.3f}</figcaption></figure>"
    )


def _confusion(report: EvaluationReport, found: Findings) -> str:
    names = list(report.per_class)
    rows, columns = [*names, "nothing there"], [*names, "missed"]
    title = "<h2>Confusion</h2>"
    told = f"<p>Rows: what is there. Columns: what was detected, from a score of {found.threshold:g} on.</p>"
    if len(names) <= MOST_CLASSES:
        return f"{title}{told}{_matrix(rows, columns, found.confusion)}"
    wrong = found.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CLASSES]
    pairs = [(int(p) // len(columns), int(p) % len(columns)) for p in order]
    list_rows = [[rows[r], columns[c], str(wrong[r, c])] for r, c in pairs if wrong[r, c]]
    return f"{title}{table_html(Table('the most frequent ones', ['there', 'detected', 'times'], list_rows))}"


def _matrix(rows: Sequence[str], columns: Sequence[str], counts: np.ndarray) -> str:
    totals = np.maximum(counts.sum(1), 1)
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = []
    for r, name in enumerate(rows):
        cells = []
        for c, count in enumerate(counts[r]):
            color = "42,127,98" if r == c else "192,57,43"
            shade = f' style="background:rgba({color},{0.6 * count / totals[r]:.2f})"' if count else ""
            cells.append(f"<td{shade}>{count or ''}</td>")
        body.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    return f'<table class="matrix"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _errors(found: Findings) -> str:
    rows = [[kind, str(count), ERROR_KINDS[kind]] for kind, count in found.errors.items()]
    title = f"from a score of {found.threshold:g} on"
    return f"<h2>Errors</h2>{table_html(Table(title, ['kind', 'count', 'what it is'], rows))}"


def _worst(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    figures = "".join(
        f'<figure><img alt="{escape(one.caption)}" src="data:image/jpeg;base64,{base64.b64encode(one.jpeg).decode()}">'
        f"<figcaption>{escape(one.caption)}</figcaption></figure>"
        for one in pictures
    )
    return f'<h2>The worst images</h2><p>Left: what is there. Right: what was detected.</p><div class="worst">{figures}</div>'
