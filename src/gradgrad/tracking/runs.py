"""Find a run that was, its checkpoints and its config."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from gradgrad.errors import UsageError, nearest, some
from gradgrad.tracking.secrets import redact
from gradgrad.tracking.store import existing_store, local_folder, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ALIASES = ("best", "last")


class FoundRun(NamedTuple):
    """A run to go on with.

    Attributes:
        run_id: MLflow's.
        checkpoint: file of this machine.
        config: resolved, as it was recorded; empty where none was.
    """

    run_id: str
    checkpoint: Path
    config: dict[str, Any]


def find_run(experiment_name: str, alias: str, run_id: str | None = None) -> FoundRun:
    """Find the best or last checkpoint of a run.

    Args:
        experiment_name: of the experiment whose newest run with such a checkpoint is meant.
        alias: ``best`` or ``last``.
        run_id: a certain run instead.

    Returns:
        The run.

    Raises:
        UsageError: there is no such store, experiment, run or checkpoint.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri()
    client = existing_store(uri, f"--ckpt_path {alias}")
    if run_id is not None:
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            raise UsageError(
                f"--run_id {run_id}: no such run in {redact(uri)}.\nwrite: an id that `gradgrad ui` shows"
            ) from error
    else:
        experiment = client.get_experiment_by_name(experiment_name)
        if experiment is None:
            names = [e.name for e in client.search_experiments()]
            raise UsageError(
                f"--ckpt_path {alias}: there is no experiment {experiment_name!r} in {redact(uri)}.\n"
                f"expected: one of {some(names)}\n"
                f"write:    --trainer.logger.experiment_name {nearest(experiment_name, names) or names[0]}, or --run_id <id>"
            )
        wanted = f"tags.`checkpoint.{alias}` != ''"
        found = client.search_runs([experiment.experiment_id], wanted, max_results=1, order_by=["attributes.start_time DESC"])
        if not found:
            raise UsageError(
                f"--ckpt_path {alias}: no run of experiment {experiment_name!r} has such a checkpoint.\n"
                "write: gradgrad fit first, or --ckpt_path <file.ckpt>"
            )
        run = found[0]
    path = run.data.tags.get(f"checkpoint.{alias}")
    if path is None:
        kinds = [kind for kind in ALIASES if f"checkpoint.{kind}" in run.data.tags]
        raise UsageError(
            f"--ckpt_path {alias}: run {run.info.run_id} has no such checkpoint.\n"
            f"write: --ckpt_path {kinds[0] if kinds else '<file.ckpt>'}"
        )
    try:
        checkpoint = Path(path) if Path(path).is_absolute() else _artifact(client, run, path)
        recorded = [file.path for file in client.list_artifacts(run.info.run_id)]
        text = _artifact(client, run, "config.yaml").read_text() if "config.yaml" in recorded else "{}"
    except (MlflowException, OSError) as error:
        checkpoint, text = Path(path), "{}"
        reason = f": {redact(str(error).splitlines()[0])}"
    else:
        reason = ""
    if not checkpoint.exists():
        raise UsageError(
            f"--ckpt_path {alias}: run {run.info.run_id} names {path}, which is gone{reason}.\nwrite: another --run_id"
        )
    return FoundRun(run.info.run_id, checkpoint, yaml.safe_load(text))


def _artifact(client: "MlflowClient", run: "Run", path: str) -> Path:
    """Give an artifact as a file of this machine; fetch it only where it is not one."""
    folder = local_folder(run.info.artifact_uri)
    return folder / path if folder else Path(client.download_artifacts(run.info.run_id, path))
