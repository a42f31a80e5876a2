"""Artifacts that the store names and that are not there."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gradgrad.tracking.runs import ALIASES
from gradgrad.tracking.store import local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def missing(run: "Run") -> Iterator[str]:
    """Look for what a run says that it has kept.

    Args:
        run: any.

    Yields:
        A line for its whole folder, its config or a checkpoint that is missing on this machine.
    """
    folder, run_id = local_folder(run.info.artifact_uri), run.info.run_id
    if folder is None or run.info.status == "RUNNING":
        return
    kept = {f"its {kind} checkpoint": run.data.tags.get(f"checkpoint.{kind}") for kind in ALIASES}
    if any(tag.startswith("command.") for tag in run.data.tags):
        kept["its config"] = "config.yaml"
    if any(kept.values()) and not folder.exists():
        yield f"run {run_id}: all its artifacts are missing in {folder}"
        return
    for name, path in kept.items():
        if path and not (folder / path).exists():
            yield f"run {run_id}: {name} {path} is missing in {folder}"


def missing_models(client: "MlflowClient") -> Iterator[str]:
    """Look for the logged models of all experiments.

    Args:
        client: of the store.

    Yields:
        A line for each that is missing on this machine.
    """
    token = None
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    while experiments:
        page = client.search_logged_models(experiments, page_token=token)
        for model in page:
            folder = local_folder(model.artifact_location)
            if model.status == "READY" and folder is not None and not (folder / "MLmodel").exists():
                yield f"model {model.model_id} of run {model.source_run_id} is missing in {folder}"
        token = page.token
        if not token:
            return
