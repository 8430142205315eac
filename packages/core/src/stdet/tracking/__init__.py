"""Where curves and parameters go: TensorBoard always, MLflow when asked for and installed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from stdet.errors import ArtifactError
from stdet.interfaces.tracker import Tracker


class TensorBoardTracker:
    """Curves as TensorBoard event files in `folder`."""

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def params(self, params: Mapping[str, Any]) -> None:
        lines = (f"| {key} | {value} |" for key, value in params.items())
        self._writer.add_text("config", "\n".join(["| key | value |", "|---|---|", *lines]))

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class MlflowTracker:
    """Parameters, curves and final metrics to an MLflow server or folder. Needs the `mlflow` extra of stdet-core."""

    def __init__(self, uri: str, experiment: str, run_name: str) -> None:
        """Raises:
        ImportError: MLflow is not installed.
        ArtifactError: `uri` can't be reached or written to; so do the methods.
        """
        # MLflow wants its folder stores replaced by a data base, but a folder is what the dialect's `uri` names; and who
        # asked for a record of a run didn't ask for usage reports to its makers.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.tracking import MlflowClient

        self._uri = uri
        with self._reachable():
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            experiment_id = found.experiment_id if found else self._client.create_experiment(experiment)
            self._run_id = self._client.create_run(experiment_id, run_name=run_name).info.run_id

    def params(self, params: Mapping[str, Any]) -> None:
        with self._reachable():
            for key, value in params.items():
                self._client.log_param(self._run_id, key, str(value)[:6000])

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        with self._reachable():
            for name, value in scalars.items():
                self._client.log_metric(self._run_id, name.replace("@", "."), float(value), step=step)

    def close(self) -> None:
        with self._reachable():
            self._client.set_terminated(self._run_id)

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            raise ArtifactError(
                f"mlflow.uri {self._uri}: {str(error).splitlines()[0]}",
                "mend or remove mlflow.uri; an interrupted training goes on with training.resume_training_from=auto",
            ) from error


class Trackers:
    """Several trackers as one; a context manager that closes them."""

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def params(self, params: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.params(params)

    def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.scalars(step, scalars)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
