"""MLflow: https://mlflow.org/docs/latest/api_reference/python_api/."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from sharded_emb.training.tracking import Tracked, Tracker, TrackingConfig

_ID = ".mlflow-id"
_MOST_AT_ONCE = 100  # parameters in one call
_LONGEST = 500  # letters of a parameter
# MLflow's own is eight tries of two minutes; these take half a minute of a server that does not answer
_RETRIES, _SECONDS = 2, 10
_ENDS = {"finished": "FINISHED", "stopped": "KILLED"}


class MlflowConfig(TrackingConfig):
    """experiment: MLflow's, made where there is none. uri: of a tracking server or a database; null for RUN/mlflow.db,
    which `mlflow ui --backend-store-uri sqlite:///RUN/mlflow.db` shows. A server is tried for half a minute, unless
    MLFLOW_HTTP_REQUEST_MAX_RETRIES and MLFLOW_HTTP_REQUEST_TIMEOUT, which are set for this process, say more.
    """

    experiment: str = "sharded_emb"
    uri: str | None = None

    @property
    def needs(self) -> str:
        """The package."""
        return "mlflow"

    def build(self, run: Tracked) -> Tracker:
        """A resumed run keeps its id."""
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

        for variable, value in ((MLFLOW_HTTP_REQUEST_MAX_RETRIES, _RETRIES), (MLFLOW_HTTP_REQUEST_TIMEOUT, _SECONDS)):
            if not variable.is_set():
                variable.set(value)
        client = MlflowClient(self.uri or f"sqlite:///{(run.path / 'mlflow.db').resolve()}")
        file = run.path / _ID
        if file.is_file():
            found = file.read_text(encoding="utf-8")
            client.update_run(found, status="RUNNING")
            return _Mlflow(client, found)
        known = client.get_experiment_by_name(self.experiment)
        experiment = client.create_experiment(self.experiment) if known is None else known.experiment_id
        found = client.create_run(experiment, run_name=run.path.name, tags={"run": str(run.path)}).info.run_id
        params = [Param(key, value[:_LONGEST]) for key, value in _leaves(run.config)]
        for begin in range(0, len(params), _MOST_AT_ONCE):
            client.log_batch(found, params=params[begin : begin + _MOST_AT_ONCE])
        file.write_text(found, encoding="utf-8")
        return _Mlflow(client, found)


class _Mlflow(Tracker):
    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_name(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self, status: str, metrics: Mapping[str, float]) -> None:  # noqa: ARG002
        # the metrics were logged one by one
        self._client.set_terminated(self._run, _ENDS.get(status, "FAILED"))


def _name(name: str) -> str:
    """`ndcg@10` as MLflow allows it."""
    return name.replace("@", "_at_")


def _leaves(tree: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", str(value)
