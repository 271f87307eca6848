"""A run's figures in MLflow, by its own client."""

import os
import re
import time
from pathlib import Path
from typing import Any

from home_dist.config.log import MlflowSection
from home_dist.training.tracking import Scalars

_BATCH, _PARAMETERS = 500, 100
"""Metrics and parameters of one request; MLflow takes 1,000 and 100."""
_LONGEST = 500
"""Letters of a parameter's value, which older servers take."""
_REFUSED = re.compile(r"[^/\w.\- :]")


class MlflowTracker:
    def __init__(self, section: MlflowSection, run: Path):
        self._section, self._name = section, section.name or run.absolute().name
        self.label = "MLflow"
        self.place = {"uri": section.uri, "experiment": section.experiment}
        self._client: Any = None
        self._run = ""

    def open(self, known: str | None, settings: dict[str, str]) -> str:
        # A try should end soon: `tracking` tries again for as long as the run takes.
        for variable, value in (("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")):
            os.environ.setdefault(variable, value)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        client = self._client = MlflowClient(tracking_uri=self._section.uri)
        run = None
        known = self._run or known  # a try that failed after it began a run must not leave one behind each time
        if known is not None:
            try:
                run = client.get_run(known)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        if run is None or run.info.lifecycle_stage == "deleted":
            run = client.create_run(self._experiment(), run_name=self._name)
        else:
            client.update_run(run.info.run_id, status="RUNNING")
        self._run = run.info.run_id
        self._settings(settings, run.data.params)
        return str(self._run)

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._section.experiment)
        return str(self._client.create_experiment(self._section.experiment) if found is None else found.experiment_id)

    def _settings(self, settings: dict[str, str], there: dict[str, str]) -> None:
        """MLflow's parameters never change. What a resumed run has another value of becomes a tag."""
        from mlflow.entities import Param, RunTag

        wanted = {_key(key): value[:_LONGEST] for key, value in settings.items()}
        new = [Param(key, value) for key, value in wanted.items() if key not in there]
        changed = [RunTag(f"resumed.{key}", value) for key, value in wanted.items() if there.get(key, value) != value]
        for first in range(0, len(new), _PARAMETERS):
            self._client.log_batch(self._run, params=new[first : first + _PARAMETERS])
        if changed:
            self._client.log_batch(self._run, tags=changed[:_PARAMETERS])

    def log(self, step: int, scalars: Scalars, milliseconds: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_key(name), value, milliseconds, step) for name, value in scalars.items()]
        for first in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._run, metrics=metrics[first : first + _BATCH])

    def end(self, status: str) -> None:
        self._client.set_terminated(self._run, status, end_time=time.time_ns() // 10**6)


def _key(name: str) -> str:
    return _REFUSED.sub("_", name)
