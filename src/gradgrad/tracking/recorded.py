"""A run as it was recorded, for those who want to have it back."""

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from gradgrad.errors import UsageError
from gradgrad.tracking.provenance import PROVENANCE
from gradgrad.tracking.secrets import redact
from gradgrad.tracking.store import existing_store, local_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class RecordedRun(NamedTuple):
    """What a run recorded of itself.

    Attributes:
        run: MLflow's.
        artifacts: folder with ``config.yaml`` and ``provenance/``; on this machine, if need be by a copy.
        remote: whether it is a copy.
        verb: which began it.
        config: resolved and redacted.
        environment: ``environment.json``.
        requirements: lines of ``requirements.txt``.
        untracked: lines of ``untracked.txt``.
    """

    run: "Run"
    artifacts: Path
    remote: bool
    verb: str
    config: dict[str, Any]
    environment: dict[str, Any]
    requirements: list[str]
    untracked: list[str]

    @property
    def id(self) -> str:
        """MLflow's id."""
        return str(self.run.info.run_id)

    @property
    def tags(self) -> dict[str, str]:
        """MLflow's tags."""
        return dict(self.run.data.tags)

    @property
    def root(self) -> Path | None:
        """Of the repository that it was started in; None where there was none."""
        root = self.environment["code"]["root"]
        return Path(root) if root else None

    @property
    def folder(self) -> Path:
        """Where it was started, absolute."""
        return (self.root or Path()) / str(self.environment["code"]["folder"])


def read_run(uri: str, run_id: str) -> "tuple[MlflowClient, RecordedRun]":
    """Read what a run recorded.

    Args:
        uri: a tracking address.
        run_id: MLflow's.

    Returns:
        A client of the store, and the run.

    Raises:
        UsageError: there is no such run, or it recorded too little.
    """
    from mlflow.exceptions import MlflowException

    client = existing_store(uri, f"run {run_id}")
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise UsageError(f"run {run_id} is not in {redact(uri)}.\nwrite: an id that `gradgrad ui` shows") from error
    folder = local_folder(run.info.artifact_uri)
    artifacts = folder or Path(tempfile.mkdtemp(prefix="gradgrad-"))
    try:
        if folder is None:
            for name in ("config.yaml", PROVENANCE):
                client.download_artifacts(run_id, name, str(artifacts))
        text = (artifacts / "config.yaml").read_text()
        places = artifacts / PROVENANCE
        recorded = RecordedRun(
            run=run,
            artifacts=artifacts,
            remote=folder is None,
            verb=_verb(text),
            config=yaml.safe_load(text),
            environment=json.loads((places / "environment.json").read_text()),
            requirements=(places / "requirements.txt").read_text().splitlines(),
            untracked=(places / "untracked.txt").read_text().splitlines(),
        )
    except (MlflowException, OSError) as error:
        missing = Path(getattr(error, "filename", None) or "config.yaml or provenance/").name
        raise UsageError(
            f"run {run_id} cannot be reproduced: {missing} is not among its artifacts.\n"
            "expected: a run that `gradgrad fit` began, not one of an earlier version or of another logger\n"
            f"write:    gradgrad fit -c <its config>; it was started by: {run.data.tags.get('command.fit', 'an unknown command')}"
        ) from error
    return client, recorded


def _verb(config: str) -> str:
    found = re.match(r"# gradgrad (\w+) -c", config)
    return found[1] if found else "fit"
