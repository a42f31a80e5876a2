"""Find the run that a training goes on with, and what it has logged."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from gradgrad.errors import UsageError
from gradgrad.tracking.logger import FINAL
from gradgrad.tracking.process import HOST, is_alive
from gradgrad.tracking.store import FOLDER, database_file, existing_store, local_folder, open_store, tracking_uri
from gradgrad.tracking.sync import deliver_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FIRST = ("last.ckpt", "previous.ckpt")  # those that are resumed bit for bit; then others, the newest first
RESUMED = re.compile(r"resumed-(\d+)\.yaml")


class Unfinished(NamedTuple):
    """A run that can go on.

    Attributes:
        run_id: MLflow's.
        status: MLflow's.
        checkpoints: its files, the best one to resume from first.
        config: the newest that was recorded.
        number: which resumption this is, from 1.
    """

    run_id: str
    status: str
    checkpoints: list[Path]
    config: dict[str, Any]
    number: int


def unfinished_runs(experiment_name: str) -> Iterator[Unfinished | str]:
    """List the runs of an experiment that may be taken.

    Args:
        experiment_name: of the experiment.

    Yields:
        Runs that are not FINISHED, the newest first; a sentence for each that is passed over.
    """
    uri = tracking_uri()
    database = database_file(uri)
    if database is not None and not database.exists():
        return
    client = open_store(uri)
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return
    for run in client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"]):
        alive = is_alive(run.data.tags)
        if run.info.status == "FINISHED":
            continue
        if alive and run.info.status == "RUNNING":
            yield f"run {run.info.run_id} is passed over: its process lives"
        elif alive is None and run.info.status == "RUNNING" and HOST in run.data.tags:
            where = run.data.tags[HOST]
            yield f"run {run.info.run_id} is passed over: it may live on {where}; --resume {run.info.run_id} takes it"
        elif checkpoints := _checkpoints(client, run):
            yield _described(client, run, checkpoints)


def certain_run(run_id: str, experiment_name: str) -> Unfinished:
    """Look a run up.

    Args:
        run_id: MLflow's.
        experiment_name: that it must belong to.

    Returns:
        The run, finished or not.

    Raises:
        UsageError: no such run, one of another experiment, one whose process lives, or one without checkpoints.
    """
    from mlflow.exceptions import MlflowException

    client = existing_store(tracking_uri(), f"--resume {run_id}")
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise UsageError(
            f"--resume {run_id}: no such run in this store, and no such file.\n"
            "expected: auto, never, the id of a run, or a checkpoint file\n"
            "write:    --resume auto, or an id that `gradgrad ui` shows"
        ) from error
    name = client.get_experiment(run.info.experiment_id).name
    if name != experiment_name:
        raise UsageError(
            f"--resume {run_id}: that run belongs to experiment {name!r}, this command line to {experiment_name!r}.\n"
            f"write: --trainer.logger.experiment_name {name}, or the config file that it was started with"
        )
    if run.info.lifecycle_stage == "deleted":
        raise UsageError(f"--resume {run_id}: that run was deleted.\nwrite: mlflow runs restore --run-id {run_id} first")
    if run.info.status == "RUNNING" and is_alive(run.data.tags):
        raise UsageError(f"--resume {run_id}: its process lives and trains.\nwrite: --resume never, or end that process first")
    checkpoints = _checkpoints(client, run)
    if not checkpoints:
        raise UsageError(f"--resume {run_id}: that run has no checkpoint.\nwrite: --resume never")
    return _described(client, run, checkpoints)


def owner(checkpoint: Path) -> str | None:
    """Tell which run a checkpoint file belongs to.

    Args:
        checkpoint: a file.

    Returns:
        The id of the run among whose artifacts, or uploads, it lies; else None.
    """
    folder = checkpoint.resolve().parent
    for at in (folder, *folder.parents):
        name = at.parent.name if at.name == "artifacts" else at.name
        if re.fullmatch("[0-9a-f]{32}", name) and (at.name == "artifacts" or at.parent.name == "uploading"):
            return name
    return None


def _described(client: "MlflowClient", run: "Run", checkpoints: list[Path]) -> Unfinished:
    names = [file.path for file in client.list_artifacts(run.info.run_id)]
    numbers = sorted(int(found[1]) for name in names if (found := RESUMED.fullmatch(name)))
    config: dict[str, Any] = {}
    if numbers:
        config = yaml.safe_load(client_text(client, run, f"resumed-{numbers[-1]}.yaml"))["config"]
    elif "config.yaml" in names:
        config = yaml.safe_load(client_text(client, run, "config.yaml"))
    return Unfinished(run.info.run_id, run.info.status, checkpoints, config, (numbers or [0])[-1] + 1)


def client_text(client: "MlflowClient", run: "Run", path: str) -> str:
    """Read an artifact.

    Args:
        client: of the store.
        run: it belongs to.
        path: name inside the run's artifacts.

    Returns:
        Its text.
    """
    folder = local_folder(run.info.artifact_uri)
    file = folder / path if folder else Path(client.download_artifacts(run.info.run_id, path))
    return file.read_text()


def _checkpoints(client: "MlflowClient", run: "Run") -> list[Path]:
    """Find them on this machine; else fetch what was uploaded."""
    artifacts, run_id = local_folder(run.info.artifact_uri), run.info.run_id
    here = [artifacts] if artifacts else []
    folders = [folder / "checkpoints" for folder in (*here, Path.cwd() / FOLDER / "uploading" / run_id)]
    files = [file for folder in folders for file in folder.glob("*.ckpt")]
    if not files and artifacts is None and client.list_artifacts(run_id, "checkpoints"):
        files = [*Path(client.download_artifacts(run_id, "checkpoints")).glob("*.ckpt")]
    by_time = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
    return sorted(by_time, key=lambda file: FIRST.index(file.name) if file.name in FIRST else len(FIRST))


def logged_points(run_id: str) -> tuple[set[tuple[str, int]], dict[str, float]]:
    """Read what a run has logged, what dead processes left in their spools included.

    Args:
        run_id: MLflow's.

    Returns:
        Metric and step of each point; and the final values, which stand at step 0 and of which the newest counts.
    """
    client = open_store(tracking_uri())
    deliver_run(client, run_id)
    newest = client.get_run(run_id).data.metrics
    keys = [key for key in newest if not key.startswith(FINAL)]
    points = {(key, point.step) for key in keys for point in client.get_metric_history(run_id, key)}
    return points, {key: value for key, value in newest.items() if key.startswith(FINAL)}
