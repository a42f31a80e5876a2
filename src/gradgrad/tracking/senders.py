"""What each kind of entry of a spool does to MLflow."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradgrad.tracking.ending import end_run
from gradgrad.tracking.store import tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_PER_REQUEST = 1000  # MLflow's limits for one log_batch
PARAMS_PER_REQUEST = 100
log = logging.getLogger(__name__)


def _params(client: "MlflowClient", run_id: str, payload: dict[str, str]) -> None:
    from mlflow.entities import Param

    params = [Param(key, value) for key, value in payload.items()]
    for start in range(0, len(params), PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=params[start : start + PARAMS_PER_REQUEST])


def _tags(client: "MlflowClient", run_id: str, payload: dict[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in payload.items()])


def send_metrics(client: "MlflowClient", run_id: str, payload: list[list[Any]]) -> None:
    """Send points.

    Args:
        client: of the store.
        run_id: MLflow's.
        payload: name, value, milliseconds since 1970 and step of each.
    """
    from mlflow.entities import Metric

    metrics = [Metric(key, value, timestamp, step) for key, value, timestamp, step in payload]
    for start in range(0, len(metrics), METRICS_PER_REQUEST):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_PER_REQUEST])


def _inputs(client: "MlflowClient", run_id: str, payload: list[dict[str, str]]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    keys = ("name", "digest", "source_type", "source", "profile")
    inputs = [
        DatasetInput(Dataset(**{key: part[key] for key in keys}), [InputTag(MLFLOW_DATASET_CONTEXT, part["part"])])
        for part in payload
    ]
    client.log_inputs(run_id, inputs)


def _file(client: "MlflowClient", run_id: str, payload: dict[str, Any]) -> None:
    file = Path(payload["file"])
    if not file.exists():
        if not payload["copy"]:  # a copy is gone only where it was delivered and the answer was lost
            log.warning("run %s: %s is gone and does not become an artifact", run_id, file)
        return
    client.log_artifact(run_id, str(file), payload["folder"] or None)
    if payload["copy"]:
        file.unlink()
        file.parent.rmdir()


def _remove(client: "MlflowClient", run_id: str, payload: dict[str, str]) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    uri = client.get_run(run_id).info.artifact_uri
    get_artifact_repository(uri, tracking_uri=tracking_uri()).delete_artifacts(payload["path"])  # type: ignore[no-untyped-call]


# What an entry of a kind does; each may be done twice.
SENDERS: dict[str, Callable[["MlflowClient", str, Any], None]] = {
    "metrics": send_metrics,
    "params": _params,
    "tags": _tags,
    "inputs": _inputs,
    "text": lambda client, run_id, payload: client.log_text(run_id, payload["text"], payload["path"]),
    "file": _file,
    "remove": _remove,
    "running": lambda client, run_id, _: client.update_run(run_id, status="RUNNING"),
    "end": lambda client, run_id, payload: end_run(client, run_id, payload["status"], payload["end_time"]),
}
