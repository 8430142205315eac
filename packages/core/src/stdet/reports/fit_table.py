"""Whether a network fits, as tables and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from stdet.fitting import Candidate, Fit
from stdet.reports.bench_table import bench_tables
from stdet.structures import Table

FORMAT = "stdet.fit/1"
AS_CONFIGURED = "as configured"


def fit_tables(fit: Fit) -> tuple[Table, ...]:
    """The verdict, then what each network costs."""
    found = [fit.asked, *fit.instead]
    rows = [[c.change or AS_CONFIGURED, c.wrong or "fits"] for c in found]
    if fit.asked.wrong and not fit.instead:
        rows.append(["smaller size or width", "none was found that will do"])
    reports = [dataclasses.replace(c.report, model=c.change or AS_CONFIGURED) for c in found]
    return (Table(f"fit on {fit.asked.report.device}", ["network", "verdict"], rows), *bench_tables(reports))


def fit_document(fit: Fit) -> dict[str, Any]:
    """The same for programs; JSON values only."""
    document = {
        "format": FORMAT,
        "fits": not fit.asked.wrong,
        "reason": fit.asked.wrong,
        "asked": _entry(fit.asked),
        "instead": [_entry(candidate) for candidate in fit.instead],
    }
    return json.loads(json.dumps(document))  # type: ignore[no-any-return]  # tuples become lists


def _entry(candidate: Candidate) -> dict[str, Any]:
    return {"change": candidate.change, "report": dataclasses.asdict(candidate.report)}
