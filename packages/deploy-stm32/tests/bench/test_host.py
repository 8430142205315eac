from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stdet.errors import ArtifactError
from stdet_deploy_stm32.bench import host


def test_percentiles_are_in_order_and_the_device_is_named(saved: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    report = host.bench_host(saved, lambda done, total: seen.append((done, total)), runs=9)
    assert report.latency_p10_ms is not None
    assert report.latency_ms is not None
    assert report.latency_p90_ms is not None
    assert 0 < report.latency_p10_ms <= report.latency_ms <= report.latency_p90_ms
    assert (report.latency_kind, report.threads) == ("measured", 1)
    assert host.processor_name() in report.device
    assert seen[-1] == (9 + host.WARM_UP, 9 + host.WARM_UP)


def test_the_first_runs_are_not_counted(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that gives warm-up runs 1 s and all others 1, 2, 3 … ms."""
    durations = [1.0] * host.WARM_UP + [i / 1000 for i in range(1, 12)]
    ticks = iter(np.cumsum([x for d in durations for x in (0.0, d)]))
    monkeypatch.setattr(host.time, "perf_counter", lambda: float(next(ticks)))
    report = host.bench_host(saved, runs=11)
    found = (report.latency_p10_ms, report.latency_ms, report.latency_p90_ms)
    assert found == pytest.approx((2.0, 6.0, 10.0))


def test_a_broken_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match=r"x\.onnx"):
        host.bench_host(tmp_path / "x.onnx")
