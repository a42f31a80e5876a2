"""How a run's page reads when the run is over."""

import re
from typing import TYPE_CHECKING

from gradgrad.tracking.description import describe

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE, ROLE = "mlflow.note.content", "sweep.role"
VERBS = ("fit", "validate", "test", "predict", "spectrum")
RESULT = re.compile(r"best/|test/|spectrum(_[^/]*)?/lambda_")  # what the description names


def end_run(client: "MlflowClient", run_id: str, status: str | None, end_time: int | None) -> None:
    """Write a run's description, unless it is a sweep's and has one, and say how it ended.

    Args:
        client: of the store.
        run_id: MLflow's.
        status: MLflow's; None leaves it as it is.
        end_time: milliseconds since 1970; None is now.
    """
    tags = client.get_run(run_id).data.tags
    if not (tags.get(ROLE) == "parent" and NOTE in tags):
        client.set_tag(run_id, NOTE, description(client, run_id))
    if status is not None:
        client.set_terminated(run_id, status, end_time)


def description(client: "MlflowClient", run_id: str) -> str:
    """Describe a run by what the store knows of it.

    Args:
        client: of the store.
        run_id: MLflow's.

    Returns:
        Markdown.
    """
    run = client.get_run(run_id)
    tags, results = run.data.tags, run.data.metrics
    data = run.inputs.dataset_inputs[0].dataset if run.inputs and run.inputs.dataset_inputs else None
    dirty = " (with uncommitted changes)" if tags.get("git.dirty") == "true" else ""
    facts = {
        "data": f"{data.name}, training part {data.digest}" if data else "",
        "seed": run.data.params.get("seed_everything", ""),
        "code": f"{tags['git.commit'][:12]}{dirty}" if "git.commit" in tags else "",
        "ended by": tags.get("exception", tags.get("signal", "")),
    }
    commands = [tags[key] for verb in VERBS if (key := f"command.{verb}") in tags]
    final = {key: results[key] for key in sorted(results) if RESULT.match(key)}
    return describe(commands, facts, final)
