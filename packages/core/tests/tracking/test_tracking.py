"""Trackers: what goes in can be read by the tool it is for, and none of them can stop or delay a run."""

from __future__ import annotations

import csv
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stdet.errors import Interrupted
from stdet.tracking import TRACKERS, TrackedRun, Trackers, open_trackers
from stdet.tracking.mlflow import how_to_look, store_uri

PARAMS = {"training.optimizer.SGD.learning_rate": 0.01}


def a_run(folder: Path, uri: str | None = None) -> TrackedRun:
    (folder / "monday").mkdir(parents=True, exist_ok=True)
    return TrackedRun(folder / "monday", folder / "monday" / "models", "cells", uri, PARAMS)


def track(names: list[str], run: TrackedRun, notes: list[str]) -> None:
    """A small run: two evaluations, a file."""
    report = run.folder / "report.txt"
    report.write_text("fine")
    with open_trackers(names, run, notes.append) as trackers:
        trackers.scalars(1, {"val/AP@0.6": 0.25})
        trackers.scalars(2, {"val/AP@0.6": 0.5})
        trackers.file(report)


def test_numbers_are_there_as_csv_and_as_json_lines(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    track(["csv", "jsonl"], run, [])
    with (run.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["name"], float(row["value"])) for row in rows] == [
        ("1", "val/AP@0.6", 0.25),
        ("2", "val/AP@0.6", 0.5),
    ]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"params": PARAMS},
        {"step": 1, "val/AP@0.6": 0.25},
        {"step": 2, "val/AP@0.6": 0.5},
        {"file": str(run.folder / "report.txt")},
        {"outcome": "finished"},
    ]


def test_tensorboard_can_read_what_was_written(tmp_path: Path) -> None:
    run, picture = a_run(tmp_path), tmp_path / "red.png"
    cv2.imwrite(str(picture), np.full((8, 8, 3), (0, 0, 255), np.uint8))
    with open_trackers(["tensorboard"], run, print) as trackers:
        trackers.scalars(1, {"val/AP": 0.25})
        trackers.scalars(2, {"val/AP": 0.5})
        trackers.file(picture)
        trackers.file(tmp_path / "model.onnx")
    events = EventAccumulator(str(run.models / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("val/AP")] == [(1, 0.25), (2, 0.5)]
    assert "config/text_summary" in events.Tags()["tensors"]
    (image,) = events.Images("red")
    shown = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown[0, 0].tolist() == [0, 0, 255]


@pytest.fixture
def mlflow_store(tmp_path: Path) -> Path:
    for name in ("sqlalchemy", "alembic"):
        pytest.importorskip(name)
    return tmp_path / "mlruns"


def runs_in(store: Path) -> Any:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")  # what `mlflow ui` is told to open
    experiment = client.get_experiment_by_name("cells")
    return client, client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])


def test_mlflow_opens_the_store_that_a_folder_gets_with_parameters_curves_files_and_outcomes(
    mlflow_store: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    track(["mlflow"], a_run(tmp_path, str(mlflow_store)), notes)
    assert notes == [
        f"mlflow: look at the runs with `mlflow ui --backend-store-uri sqlite:///{mlflow_store / 'mlflow.db'}`"
    ]
    for error in (ValueError("x"), Interrupted("stopped"), KeyboardInterrupt()):
        with (
            pytest.raises(type(error)),
            open_trackers(["mlflow"], a_run(tmp_path, f"file://{mlflow_store}"), notes.append),
        ):
            raise error
    client, runs = runs_in(mlflow_store)
    assert [run.info.status for run in runs] == ["FINISHED", "FAILED", "KILLED", "KILLED"]
    first = runs[0]
    assert first.info.run_name == "monday"
    assert first.data.params == {"training.optimizer.SGD.learning_rate": "0.01"}
    points = client.get_metric_history(first.info.run_id, "val/AP.0.6")
    assert [(p.step, p.value) for p in points] == [(1, 0.25), (2, 0.5)]
    assert [file.path for file in client.list_artifacts(first.info.run_id)] == ["report.txt"]


@pytest.mark.parametrize(
    ("uri", "store"),
    [
        ("/data/runs", "sqlite:////data/runs/mlflow.db"),
        ("file:///data/runs", "sqlite:////data/runs/mlflow.db"),
        ("sqlite:////data/my.db", "sqlite:////data/my.db"),
        ("http://tracker:5000", "http://tracker:5000"),
    ],
)
def test_an_address_is_left_alone_and_a_folder_gets_a_data_base(uri: str, store: str) -> None:
    assert store_uri(uri) == store
    assert how_to_look(uri) == ("" if store.startswith("http") else f"mlflow ui --backend-store-uri {store}")


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes a connection, and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_is_silent_delays_neither_the_run_nor_for_long_its_end(
    silent_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("stdet.tracking.background.LAST_WAIT_S", 0.5)
    TRACKERS["mlflow"](a_run(tmp_path, silent_server))  # what is imported is there now
    notes: list[str] = []
    started = time.monotonic()
    track(["csv", "mlflow"], a_run(tmp_path, silent_server), notes)
    assert time.monotonic() - started < 2.5
    assert notes == ["mlflow is set aside and the run goes on without it: it did not take everything within 0.5 s"]
    assert len((tmp_path / "monday" / "metrics.csv").read_text().splitlines()) == 3


def test_a_server_that_refuses_costs_one_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    notes: list[str] = []
    track(["mlflow"], a_run(tmp_path, f"http://127.0.0.1:{port}"), notes)
    assert len(notes) == 1
    assert "mlflow is set aside" in notes[0]


def test_the_limits_of_a_request_are_ours_unless_the_user_sets_them(
    silent_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    from stdet.tracking.mlflow import import_mlflow

    import_mlflow(silent_server)
    assert (os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"], os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) == ("77", "2")


def test_a_folder_that_cannot_be_written_costs_one_note(mlflow_store: Path, tmp_path: Path) -> None:
    mlflow_store.write_text("no folder")
    notes: list[str] = []
    track(["mlflow"], a_run(tmp_path, str(mlflow_store / "deeper")), notes)
    assert len([note for note in notes if "mlflow is set aside" in note]) == 1


class Recording:
    """Keeps what it is told, and fails from the call of number `fails_from` on."""

    def __init__(self, fails_from: int = 99) -> None:
        self.told: list[Any] = []
        self._fails_from = fails_from

    def _tell(self, what: Any) -> None:
        self.told.append(what)
        if len(self.told) >= self._fails_from:
            raise OSError(28, "No space left on device")

    def params(self, params: Any) -> None:
        self._tell(params)

    def scalars(self, step: int, scalars: Any) -> None:
        self._tell(scalars)

    def file(self, path: Path) -> None:
        self._tell(path)

    def close(self, outcome: str) -> None:
        self._tell(outcome)


@pytest.mark.parametrize("fails_from", [1, 2, 4])
def test_a_tracker_that_fails_is_set_aside_with_one_note_and_the_others_go_on(fails_from: int) -> None:
    bad, good, notes = Recording(fails_from), Recording(), []
    trackers = Trackers({"bad": bad, "good": good}, notes.append)
    trackers.params({})
    trackers.scalars(1, {"a": 1.0})
    trackers.scalars(2, {"a": 2.0})
    trackers.close("finished")
    assert notes == ["bad is set aside and the run goes on without it: [Errno 28] No space left on device"]
    assert len(bad.told) == fails_from
    assert good.told == [{}, {"a": 1.0}, {"a": 2.0}, "finished"]


def test_without_mlflow_one_line_says_that_nothing_goes_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    notes: list[str] = []
    track(["mlflow"], a_run(tmp_path, str(tmp_path / "mlruns")), notes)
    assert len(notes) == 1
    assert "nothing goes to mlflow" in notes[0]
    assert "pip install 'stdet-core[mlflow]'" in notes[0]
    assert not (tmp_path / "mlruns").exists()
