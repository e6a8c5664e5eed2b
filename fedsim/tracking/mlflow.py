"""A local MLflow store; look at it with ``mlflow ui --backend-store-uri``."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from fedsim.tracking.base import Row, Tracked, scalars, seconds_of, statement

EXPERIMENT = "fedsim"
_LONGEST, _BATCH = 500, 100  # what MLflow takes: characters of a parameter, parameters at once
_STATUS = {"interrupted": "KILLED"}


@dataclass
class Mlflow:
    """A run of the experiment "fedsim" in a store of files: settings as parameters, rounds as metrics."""

    client: Any
    run_id: str
    milliseconds: float  # since 1970, at the last round's end
    needs: ClassVar[tuple[str, ...]] = ("mlflow",)

    @classmethod
    def open(cls, run: Tracked) -> Self:
        """Begin with the scenario as parameters; nothing is sent to anybody."""
        client = _client(run)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment is not None else client.create_experiment(EXPERIMENT)
        for earlier in client.search_runs([number], f"tags.`fedsim.run_id` = '{run.run_id}'"):
            client.delete_run(earlier.info.run_id)
        tags = {"fedsim.run_id": run.run_id}
        made = client.create_run(number, int(1000 * run.began), tags, run_name=run.name)
        sink = cls(client, made.info.run_id, 1000 * run.began)
        sink._parameters(run.settings)
        return sink

    def row(self, row: Row) -> None:
        """Log the round's numbers."""
        from mlflow.entities import Metric

        self.milliseconds += 1000 * seconds_of(row)
        at, step = int(self.milliseconds), int(row["round"])
        self.client.log_batch(self.run_id, metrics=[Metric(name, value, at, step) for name, value in scalars(row)])

    def close(self, summary: Row) -> None:
        """Keep the summary and the privacy statement as files, and end the run."""
        self.client.log_text(self.run_id, json.dumps(summary, indent=2), "summary.json")
        self.client.log_text(self.run_id, statement(summary), "privacy.json")
        status = _STATUS.get(str(summary.get("status")), "FINISHED")
        self.client.set_terminated(self.run_id, status, int(self.milliseconds))

    def _parameters(self, settings: dict[str, Any]) -> None:
        from mlflow.entities import Param

        given = [Param(key, str(value)[:_LONGEST]) for key, value in settings.items() if str(value)]
        for first in range(0, len(given), _BATCH):
            self.client.log_batch(self.run_id, params=given[first : first + _BATCH])


def _client(run: Tracked) -> Any:
    # These must be set before MLflow is imported. Its store of files is all that needs no database.
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ALLOW_FILE_STORE="true")
    from mlflow.tracking import MlflowClient

    run.folder.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=run.folder.resolve().as_uri())
