"""What a model file costs."""

from __future__ import annotations

from stdet.artifacts import ModelFile, write_json, write_text
from stdet.interfaces.deploy import BenchReport
from stdet.reports.bench_page import bench_page
from stdet.reports.bench_table import bench_tables
from stdet.runs.results import Benched
from stdet.stages.models import onnx_file
from stdet.stages.run import Run


def bench(run: Run) -> None:
    """Every backend of `benchmarking.backends` on the run's model, and on its float form for comparison."""
    source = onnx_file(run)
    target = run.builder.target()
    target.logs = run.folder / "tools"
    models = [run.float_onnx] if run.float_onnx and run.float_onnx != source else []
    reports: list[tuple[ModelFile, BenchReport]] = []
    for model in [*models, source]:
        for backend in run.builder.config.benchmarking.backends or ():
            report = target.bench(model.path, backend, lambda done, total: run.reporter.progress("bench", done, total))
            reports.append((model, report))
    benched = Benched(tuple(reports))
    found = [report for _, report in reports]
    run.record.tables += bench_tables(found)
    write_text(run.folder / "reports" / "bench.html", bench_page(found))
    write_json(run.folder / "reports" / "bench.json", {"format": "stdet.bench/1", "reports": benched.to_dict()})
    run.record.add(benched)
