from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stdet.errors import ArtifactError
from stdet.stages.run import Run
from stdet.stages.train import _trackers
from stdet.tracking import MlflowTracker, TensorBoardTracker, Trackers


def test_tensorboard_can_read_what_was_written(tmp_path: Path) -> None:
    with Trackers(TensorBoardTracker(tmp_path)) as trackers:
        trackers.params({"training.epochs": 3})
        trackers.scalars(1, {"val/AP": 0.25})
        trackers.scalars(2, {"val/AP": 0.5})
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("val/AP")] == [(1, 0.25), (2, 0.5)]
    assert "config/text_summary" in events.Tags()["tensors"]


def test_mlflow_gets_parameters_and_curves(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = str(tmp_path / "mlruns")
    with Trackers(MlflowTracker(uri, "cells", "monday")) as trackers:
        trackers.params({"training.optimizer.SGD.learning_rate": 0.01})
        trackers.scalars(1, {"val/AP@0.6": 0.25})
        trackers.scalars(2, {"val/AP@0.6": 0.5})
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("cells")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "monday"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"training.optimizer.SGD.learning_rate": "0.01"}
    points = client.get_metric_history(run.info.run_id, "val/AP.0.6")
    assert [(p.step, p.value) for p in points] == [(1, 0.25), (2, 0.5)]


def test_a_second_run_joins_the_same_mlflow_experiment(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = str(tmp_path / "mlruns")
    for name in ("one", "two"):
        MlflowTracker(uri, "cells", name).close()
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("cells").experiment_id])
    assert {run.info.run_name for run in runs} == {"one", "two"}


def test_an_mlflow_uri_that_leads_nowhere_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ArtifactError, match=r"mlflow\.uri") as caught:
        MlflowTracker(str(tmp_path / "file" / "mlruns"), "cells", "monday")
    assert "mlflow.uri" in caught.value.hint


def test_without_mlflow_one_line_says_that_nothing_goes_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    notes: list[str] = []
    config = SimpleNamespace(
        general=SimpleNamespace(logger=None, project_name="cells"),
        mlflow=SimpleNamespace(uri=str(tmp_path / "mlruns")),
        document=dict,
    )
    run = SimpleNamespace(
        builder=SimpleNamespace(config=config), folder=tmp_path, reporter=SimpleNamespace(note=notes.append)
    )
    _trackers(cast("Run", cast("Any", run))).close()
    assert len(notes) == 1
    assert "pip install 'stdet-core[mlflow]'" in notes[0]
    assert not (tmp_path / "mlruns").exists()
