"""Progress as lines, for files, pipes and a run's log."""

from __future__ import annotations

import pytest

from stdet.interfaces.reporter import LineReporter


def test_lines_of_progress_say_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 130.0, 150.0])
    monkeypatch.setattr("stdet.interfaces.reporter.time.monotonic", lambda: next(clock))
    written: list[str] = []
    reporter = LineReporter(written.append)
    reporter.stage("train")
    reporter.progress("epoch 1/2", 10, 100, {"total": 2.0})
    reporter.progress("epoch 1/2", 30, 100)
    reporter.progress("epoch 2/2", 70, 100)
    reporter.progress("epoch 2/2", 100, 100)
    assert [line.strip() for line in written] == [
        "== train",
        "epoch 1/2: 10/100  total 2",
        "epoch 1/2: 30/100 (2/s, 0:00:35 left)",
        "epoch 2/2: 70/100 (2/s, 0:00:15 left)",
        "epoch 2/2: 100/100 (1.8/s)",
    ]
