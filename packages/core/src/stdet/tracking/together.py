"""The trackers of a run as one, of which none can stop it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stdet.errors import Interrupted
from stdet.extras import command
from stdet.interfaces.tracker import Outcome, Tracker

Note = Callable[[str], None]


@dataclass(frozen=True)
class TrackedRun:
    """What trackers know of a run.

    Attributes:
        folder: of the run; its name is the run's.
        models: where checkpoints lie, and event files.
        project: groups runs.
        mlflow_uri: server, data base or folder; None for none.
        params: settings, dotted key to value.
    """

    folder: Path
    models: Path
    project: str
    mlflow_uri: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


def _made(name: str, *arguments: Any) -> Tracker:
    module, _, kind = name.partition(":")
    tracker: Tracker = getattr(importlib.import_module(f"stdet.tracking.{module}"), kind)(*arguments)
    return tracker


def _mlflow(run: TrackedRun) -> Tracker:
    from stdet.tracking.background import Background
    from stdet.tracking.mlflow import import_mlflow

    uri = run.mlflow_uri
    assert uri is not None
    import_mlflow(uri)
    return Background(lambda: _made("mlflow:MlflowTracker", uri, run.project, run.folder.name))


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "csv": lambda run: _made("lines:CsvTracker", run.folder),
    "jsonl": lambda run: _made("lines:JsonLinesTracker", run.folder),
    "tensorboard": lambda run: _made("tensorboard:TensorBoardTracker", run.models / "tensorboard"),
    "mlflow": _mlflow,
}
"""Name to what makes it; a library that isn't installed is an ImportError of that one."""


class Trackers:
    """Hands everything to each of several trackers. One that fails is set aside, with one note."""

    def __init__(self, trackers: Mapping[str, Tracker] | None = None, note: Note = lambda message: None) -> None:
        self._trackers = dict(trackers or {})
        self._note = note

    def params(self, params: Mapping[str, Any]) -> None:
        self._each(lambda tracker: tracker.params(params))

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._each(lambda tracker: tracker.scalars(step, scalars))

    def file(self, path: Path) -> None:
        self._each(lambda tracker: tracker.file(path))

    def close(self, outcome: Outcome) -> None:
        self._each(lambda tracker: tracker.close(outcome))
        self._trackers.clear()

    def _each(self, work: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                work(tracker)
            except Exception as error:  # a record of the work must not cost the work
                del self._trackers[name]
                self._note(set_aside(name, error))


def set_aside(name: str, error: Exception) -> str:
    """The note on a tracker that failed."""
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"{name} is set aside and the run goes on without it: {reason[:300]}"


@contextmanager
def open_trackers(names: Iterable[str], run: TrackedRun, note: Note) -> Iterator[Trackers]:
    """The trackers of these names for the time of a run, which ends as the block does.

    Args:
        names: of `TRACKERS`.
        note: told what doesn't work.
    """
    trackers: dict[str, Tracker] = {}
    for name in names:
        try:
            trackers[name] = TRACKERS[name](run)
        except ImportError as error:
            note(f"nothing goes to {name}, which needs {error.name or error}: {command(name)}")
        except Exception as error:
            note(set_aside(name, error))
    together = Trackers(trackers, note)
    together.params(run.params)
    if "mlflow" in trackers and run.mlflow_uri is not None:
        from stdet.tracking.mlflow import how_to_look

        if shown := how_to_look(run.mlflow_uri):
            note(f"mlflow: look at the runs with `{shown}`")
    outcome: Outcome = "failed"
    try:
        yield together
        outcome = "finished"
    except (KeyboardInterrupt, Interrupted):
        outcome = "stopped"
        raise
    finally:
        together.close(outcome)
