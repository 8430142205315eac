"""Parameters, curves, scores and files of a run in MLflow."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stdet.interfaces.tracker import Outcome

STATUS: dict[Outcome, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
DATA_BASE = ("sqlalchemy", "alembic")
"""What mlflow-skinny lacks for a data base."""
PARAMS_AT_ONCE = 100
"""Most that a server takes in one request."""
LIMITS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""Unless the user says otherwise. By itself MLflow tries a server that refuses for minutes, and a silent one for longer."""


def import_mlflow(uri: str) -> None:
    """Import what talking to `uri` takes, here and not in the thread that talks: loader workers fork meanwhile.

    Raises:
        ImportError: it is not installed.
    """
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # who asked for a record didn't ask for usage reports
    import mlflow.tracking

    if store_uri(uri).startswith("http"):
        import mlflow.store.tracking.rest_store
    else:
        for library in DATA_BASE:
            importlib.import_module(library)
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def store_uri(uri: str) -> str:
    """What MLflow is given for `mlflow.uri`: for a folder the data base in it, since MLflow takes no folder any more."""
    if "://" in uri and not uri.startswith("file://"):
        return uri
    return f"sqlite:///{_folder(uri) / 'mlflow.db'}"


def how_to_look(uri: str) -> str:
    """The command that shows a store on this machine; empty for a server."""
    store = store_uri(uri)
    return "" if store.startswith("http") else f"mlflow ui --backend-store-uri {store}"


def _folder(uri: str) -> Path:
    return Path(uri.removeprefix("file://")).expanduser().absolute()


class MlflowTracker:
    """A run of an experiment. Needs the `mlflow` extra of stdet-core, and `import_mlflow` before."""

    def __init__(self, uri: str, experiment: str, run_name: str) -> None:
        """Args:
        uri: address of a server or data base, or a folder, which then gets a data base and the files.
        """
        from mlflow.tracking import MlflowClient

        place = None
        if store_uri(uri) != uri:
            _folder(uri).mkdir(parents=True, exist_ok=True)
            place = (_folder(uri) / "artifacts").as_uri()
        self._client = MlflowClient(tracking_uri=store_uri(uri))
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment, artifact_location=place)
        self._run_id = self._client.create_run(number, run_name=run_name).info.run_id

    def params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        said = [Param(key, str(value)[:6000]) for key, value in params.items()]
        for first in range(0, len(said), PARAMS_AT_ONCE):
            self._client.log_batch(self._run_id, params=said[first : first + PARAMS_AT_ONCE])

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(name.replace("@", "."), float(value), now, step) for name, value in scalars.items()]
        self._client.log_batch(self._run_id, metrics=points)

    def file(self, path: Path) -> None:
        self._client.log_artifact(self._run_id, str(path))

    def close(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._run_id, STATUS[outcome])
