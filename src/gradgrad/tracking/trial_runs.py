"""The runs of a sweep's trials."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from gradgrad.errors import UsageError
from gradgrad.tracking.store import open_store, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SWEEP, TRIAL, POINT, SEED, ROLE, KEYS = "sweep", "trial", "point", "seed", "sweep.role", "sweep.keys"
PARENT = "mlflow.parentRunId"
FAILED = "sweep.failed"  # why the sweep takes no value from a run, which may have ended well by itself
SUPERSEDED = "superseded"  # a run that died before there was anything to go on with


class EarlierRun(NamedTuple):
    """A trial's run that an interrupted process has left.

    Attributes:
        run_id: MLflow's.
        finished: whether nothing is left to do.
    """

    run_id: str
    finished: bool


def run_to_go_on_with(tags: Mapping[str, str]) -> EarlierRun | None:
    """Find what an earlier process of the same trial has left.

    Args:
        tags: of the trial's run.

    Returns:
        The run; None where there is none, or none that can be resumed: such a one is marked, and deleted if it holds nothing.
    """
    from gradgrad.tracking.resume import certain_run  # with Lightning, which only trials need
    from gradgrad.tracking.sync import deliver_run

    client = open_store(tracking_uri())
    going_on: EarlierRun | None = None
    for run in _runs_of_trial(client, tags):
        run_id = run.info.run_id
        deliver_run(client, run_id)
        if SUPERSEDED in run.data.tags or going_on is not None:
            continue
        status = client.get_run(run_id).info.status
        if status == "FINISHED":
            going_on = EarlierRun(run_id, True)
            continue
        try:
            certain_run(run_id, tags[SWEEP])
        except UsageError:
            client.set_tag(run_id, SUPERSEDED, "true")
            client.set_terminated(run_id, "KILLED")
            if not client.get_run(run_id).data.metrics:
                client.delete_run(run_id)
        else:
            going_on = EarlierRun(run_id, False)
    return going_on


def parent_run(sweep: str) -> str | None:
    """Find the run that stands for a sweep.

    Args:
        sweep: its name.

    Returns:
        Its id, or None.
    """
    found = search(open_store(tracking_uri()), sweep, f"tags.`{ROLE}` = 'parent'")
    return found[0].info.run_id if found else None


def has_trials(parent: str) -> bool:
    """Tell whether a sweep has run any trial.

    Args:
        parent: id of the run that stands for it.

    Returns:
        True if so.
    """
    client = open_store(tracking_uri())
    experiment = client.get_run(parent).info.experiment_id
    return bool(client.search_runs([experiment], f"tags.`{PARENT}` = '{parent}'", max_results=1))


def give_up_run(tags: Mapping[str, str], reason: str) -> None:
    """Say in a trial's runs that the sweep counts it as failed; end those that nobody else will.

    Args:
        tags: of the trial's run.
        reason: a sentence, redacted.
    """
    from gradgrad.tracking.sync import deliver_run

    client = open_store(tracking_uri())
    for run in _runs_of_trial(client, tags):
        deliver_run(client, run.info.run_id)
        client.set_tag(run.info.run_id, FAILED, reason)
        if client.get_run(run.info.run_id).info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "FAILED")


def _runs_of_trial(client: "MlflowClient", tags: Mapping[str, str]) -> "list[Run]":
    return search(client, tags[SWEEP], f"tags.`{PARENT}` = '{tags[PARENT]}' and tags.{TRIAL} = '{tags[TRIAL]}'")


def search(client: "MlflowClient", experiment_name: str, wanted: str) -> "list[Run]":
    """Search one experiment.

    Args:
        client: of the store.
        experiment_name: of the experiment.
        wanted: MLflow's filter.

    Returns:
        The runs, the newest first; none where there is no such experiment.
    """
    experiment = client.get_experiment_by_name(experiment_name)
    if experiment is None:
        return []
    return list(client.search_runs([experiment.experiment_id], wanted, order_by=["attributes.start_time DESC"]))
