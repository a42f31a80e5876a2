"""Runs of the tracking store as tables: what was measured, and how they were set."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from gradgrad.errors import UsageError, nearest, some
from gradgrad.tracking.secrets import redact
from gradgrad.tracking.store import existing_store, tracking_uri
from gradgrad.tracking.trial_runs import ROLE, SUPERSEDED, SWEEP

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 1000  # runs per request; servers take up to 50,000, but each run brings some hundred parameters
COMPARISON = "comparison"  # tag of a run that holds nothing but a comparison
LARGEST = 1.79e308  # what MLflow's SQL store writes for infinity


class Selected(NamedTuple):
    """Runs to be compared.

    Attributes:
        client: of their store.
        name: of the sweep or experiment, or ``runs``.
        runs: without parents of sweeps, oldest first.
        parent: of the sweep, where there is one.
        experiment_id: where a comparison belongs.
    """

    client: "MlflowClient"
    name: str
    runs: "list[Run]"
    parent: "Run | None"
    experiment_id: str


def select(sweep: str | None, experiment: str | None, run_ids: Sequence[str] | None) -> Selected:
    """Read the runs of a sweep or an experiment, or certain ones; of none of these, those of the only experiment.

    Args:
        sweep: its name.
        experiment: its name.
        run_ids: MLflow's.

    Returns:
        The runs.

    Raises:
        UsageError: there is no such store, sweep, experiment or run.
    """
    asked = {f"--sweep {sweep}": sweep, f"--experiment {experiment}": experiment, "--runs": run_ids, "the only experiment": True}
    client = existing_store(tracking_uri(), next(words for words, given in asked.items() if given))
    if run_ids:
        found = [_run(client, run_id) for run_id in dict.fromkeys(run_ids)]
        name = "runs"
    elif sweep is not None:
        found, name = _of_sweep(client, sweep), sweep
    else:
        identity, name = _experiment(client, experiment)
        found = list(search(client, [identity]))
    found.sort(key=lambda run: run.info.start_time or 0)
    parents = [run for run in found if run.data.tags.get(ROLE) == "parent"]
    runs = [run for run in found if run not in parents and COMPARISON not in run.data.tags]
    if not runs:
        raise UsageError(f"{name}: there is no run to compare.\nwrite: gradgrad fit, or the name of another sweep or experiment")
    return Selected(client, name, runs, parents[-1] if sweep and parents else None, runs[-1].info.experiment_id)


def search(client: "MlflowClient", experiment_ids: Sequence[str], wanted: str = "") -> "Iterator[Run]":
    """Read all runs, page by page.

    Args:
        client: of the store.
        experiment_ids: MLflow's.
        wanted: MLflow's filter.

    Yields:
        Each run once, also where others begin meanwhile.
    """
    seen = set()
    for run in _pages(lambda token: client.search_runs(list(experiment_ids), wanted, max_results=PAGE, page_token=token)):
        if run.info.run_id not in seen:
            seen.add(run.info.run_id)
            yield run


def _pages(read: Callable[[str | None], Any]) -> Iterator[Any]:
    token = None
    while True:
        page = read(token)
        yield from page
        token = page.token
        if not token:
            return


def _run(client: "MlflowClient", run_id: str) -> "Run":
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise UsageError(f"--runs {run_id}: no such run in this store.\nwrite: an id that `gradgrad ui` shows") from error
    if run.info.lifecycle_stage == "deleted":
        raise UsageError(f"--runs {run_id}: that run was deleted.\nwrite: mlflow runs restore --run-id {run_id} first")
    if run.data.tags.get(ROLE) == "parent":
        name = run.data.tags.get(SWEEP)
        raise UsageError(f"--runs {run_id}: that run is the parent of a sweep and has no result.\nwrite: --sweep {name}")
    return run


def _of_sweep(client: "MlflowClient", name: str) -> "list[Run]":
    experiments = [e.experiment_id for e in _pages(lambda token: client.search_experiments(page_token=token))]
    quote = '"' if "'" in name else "'"
    found = list(search(client, experiments, f"tags.`{SWEEP}` = {quote}{name}{quote}")) if '"' not in name else []
    if not found:
        parents = search(client, experiments, f"tags.`{ROLE}` = 'parent'")
        names = sorted({run.data.tags.get(SWEEP, "") for run in parents} - {""})
        _missing("sweep", name, names, "gradgrad sweep run -c <its file> first")
    return found


def _experiment(client: "MlflowClient", name: str | None) -> tuple[str, str]:
    if name is not None:
        experiment = client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            raise UsageError(
                f"--experiment {name}: that experiment was deleted.\n"
                f"write: mlflow experiments restore -x {experiment.experiment_id} first"
            )
        if experiment is not None:
            return experiment.experiment_id, name
    experiments = list(_pages(lambda token: client.search_experiments(page_token=token)))
    used = [e for e in experiments if client.search_runs([e.experiment_id], max_results=1)]
    if name is not None:
        _missing("experiment", name, [e.name for e in used], "gradgrad fit first")
    if len(used) != 1:
        names = some([e.name for e in used]) or "none yet"
        raise UsageError(f"which runs?\nexpected: --sweep NAME, --experiment NAME or --runs ID ...; experiments: {names}")
    return used[0].experiment_id, used[0].name


def _missing(kind: str, name: str, names: Sequence[str], first: str) -> None:
    near = nearest(name, names) or (names[0] if names else "")
    raise UsageError(
        f"--{kind} {name}: there is no such {kind} in this store.\n"
        + (f"expected: one of {some(names)}\nwrite:    --{kind} {near}" if names else f"write: {first}")
    )


def settings_of(runs: "Sequence[Run]", *, tags: bool = True) -> pd.DataFrame:
    """Put parameters and tags into a table.

    Args:
        runs: to be compared.
        tags: whether tags count.

    Returns:
        One row per run, named by its id; a parameter comes before a tag of the same name; missing where a run has none.
    """
    rows = [{**(run.data.tags if tags else {}), **run.data.params} for run in runs]
    return pd.DataFrame(rows, [run.info.run_id for run in runs], dtype=object)


def facts_of(runs: "Sequence[Run]", metric: str) -> pd.DataFrame:
    """Put what is known of runs into a table.

    Args:
        runs: to be compared.
        metric: name of the result.

    Returns:
        One row per run, named by its id: ``value`` (missing where it was not logged, infinite where it is no number), ``status``,
        ``pruned, superseded, data`` (digests, as text), ``commit, dirty``.

    Raises:
        UsageError: no run has the metric.
    """
    known = sorted({name for run in runs for name in run.data.metrics})
    if metric not in known:
        near = nearest(metric, known)
        raise UsageError(
            f"--metric {metric}: none of {len(runs)} runs has it.\nexpected: one of {some(known)}"
            + (f"\nwrite:    --metric {near}" if near else "")
            if known
            else f"--metric {metric}: none of {len(runs)} runs has any metric.\nwrite: gradgrad fit, or gradgrad sync first"
        )
    return pd.DataFrame([_facts(run, metric) for run in runs], [run.info.run_id for run in runs])


def _facts(run: "Run", metric: str) -> dict[str, Any]:
    tags, value = run.data.tags, run.data.metrics.get(metric)
    parts = [part.dataset for part in (run.inputs.dataset_inputs if run.inputs else [])]
    finite = value is not None and abs(value) < LARGEST
    return {
        "value": value if finite or value is None else float("inf"),
        "status": run.info.status,
        "pruned": "pruned" in tags,
        "superseded": SUPERSEDED in tags,
        "data": redact(", ".join(sorted({f"{part.name} {part.digest}" for part in parts}))),
        "commit": tags.get("git.commit", "")[:12],
        "dirty": tags.get("git.dirty") == "true",
    }
