"""One run of MLflow from its opening to its end, which says the truth."""

import re
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gradgrad.tracking.description import describe
from gradgrad.tracking.secrets import redact, redact_tree
from gradgrad.tracking.store import find_experiment, local_folder, open_store, tracking_uri
from gradgrad.tracking.verdict import verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import RunInfo

VERBS = ("fit", "validate", "test", "predict", "spectrum")
RESULT = re.compile(r"best/|test/|spectrum(_[^/]*)?/lambda_")  # what the description names


class TrackedRun:
    """A run that is opened when something is to be recorded, and not before.

    Args:
        experiment_name: of the experiment.
        run_name: None means the experiment's name.
        tags: added to the run.
        run_id: an existing run to go on with.
    """

    def __init__(self, experiment_name: str, run_name: str | None, tags: Mapping[str, str], run_id: str | None) -> None:
        self.experiment_name, self.run_name, self.tags = experiment_name, run_name, dict(tags)
        self.run_id = run_id
        self.attached = run_id is not None
        self.first_step = 0
        self.running = False
        self._checkpoints: dict[str, str] = {}
        self._client: MlflowClient | None = None
        self._before: RunInfo | None = None  # how an attached run stood

    @property
    def is_open(self) -> bool:
        """Whether the store has been asked for anything yet."""
        return self._client is not None

    @property
    def client(self) -> "MlflowClient":
        """MLflow's client; asking for it opens the run."""
        if self._client is None:
            uri = tracking_uri()
            client = open_store(uri)
            if self.run_id is None:
                from mlflow.tracking.context.registry import resolve_tags

                experiment_id = find_experiment(client, self.experiment_name, uri)
                tags = redact_tree({key: str(value) for key, value in resolve_tags(self.tags).items()})
                name = redact(self.run_name or self.experiment_name)
                self.run_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
                self.running = True
            else:
                run = client.get_run(self.run_id)
                self._before = run.info
                self.first_step = max(self.first_step, int(run.data.tags.get("steps", 0)))
            self._client = client
        return self._client

    @property
    def id(self) -> str:
        """The run's id; asking for it opens the run."""
        _ = self.client
        return str(self.run_id)

    @property
    def artifact_dir(self) -> Path | None:
        """The run's artifact folder, where it is a folder of this machine; else None."""
        return local_folder(self.client.get_run(self.id).info.artifact_uri)

    def attach(self, run_id: str, step: int = 0) -> None:
        """Go on in a run that exists; how that one ended stays as it is.

        Args:
            run_id: MLflow's.
            step: of the checkpoint at hand. A new process counts from 0, but MLflow takes the value of the largest step for
                the latest one, so what is logged now must not stand before what was logged then.
        """
        self.run_id, self.attached, self.first_step = run_id, True, step

    def reopen(self) -> None:
        """Say that the run goes on, after an end or in an attached run."""
        client = self.client
        if not self.running:
            client.update_run(self.id, status="RUNNING")
            self.running = True

    def close(self, error: BaseException | None, last_step: int) -> None:
        """End the run.

        Args:
            error: what ended it; None after a good end.
            last_step: the largest step that was logged.
        """
        client, end = self.client, verdict(error)
        if error is not None and end.status == "FAILED":
            self.log_tags({"exception": end.reason})
            name = f"traceback-{int(time.time())}.txt" if self.attached else "traceback.txt"  # an earlier one is never lost
            self.log_text("".join(traceback.format_exception(error)), name)
        elif end.reason:
            self.log_tags({"signal": end.reason})
        self._upload_checkpoints()
        self.log_tags({"steps": str(max(last_step, self.first_step))})
        client.set_tag(self.id, "mlflow.note.content", self._description())
        if self._before is None:
            client.set_terminated(self.id, end.status)
        elif self._before.status != "RUNNING":  # a later test does not change how the fit ended
            client.set_terminated(self.id, self._before.status, self._before.end_time)
        self.running = False

    def _description(self) -> str:
        run = self.client.get_run(self.id)
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

    def log_checkpoint(self, kind: str, path: str) -> None:
        """Remember where a checkpoint is.

        Args:
            kind: ``best`` or ``last``.
            path: the file.
        """
        if self._checkpoints.get(kind) != path:
            self._checkpoints[kind] = path
            self.log_tags({f"checkpoint.{kind}": self._inside(path) or path})

    def _inside(self, path: str) -> str | None:
        folder = self.artifact_dir
        return Path(path).relative_to(folder).as_posix() if folder and Path(path).is_relative_to(folder) else None

    def _upload_checkpoints(self) -> None:
        """Copy those that could not be written among the artifacts, because these are on another machine."""
        for kind, path in self._checkpoints.items():
            if self._inside(path) is None and Path(path).is_file():
                self.client.log_artifact(self.id, path, "checkpoints")
                self.log_tags({f"checkpoint.{kind}": f"checkpoints/{Path(path).name}"})

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, redacted.

        Args:
            tags: by name.
        """
        from mlflow.entities import RunTag

        self.client.log_batch(self.id, tags=[RunTag(key, redact(value)) for key, value in tags.items()])

    def log_text(self, text: str, path: str) -> None:
        """Store a text, redacted, as an artifact.

        Args:
            text: the content.
            path: name inside the run's artifacts.
        """
        self.client.log_text(self.id, redact(text), path)

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Store a figure as an artifact.

        Args:
            figure: a matplotlib figure.
            path: name inside the run's artifacts, ends in ``.png``, ``.svg`` or ``.pdf``.
        """
        self.client.log_figure(self.id, figure, path)

    def remove_artifacts(self, folder: str) -> bool:
        """Remove a folder of artifacts, on this machine or another.

        Args:
            folder: name inside the run's artifacts.

        Returns:
            Whether there was one.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if not self.client.list_artifacts(self.id, folder):
            return False
        uri = self.client.get_run(self.id).info.artifact_uri
        get_artifact_repository(uri, tracking_uri=tracking_uri()).delete_artifacts(folder)  # type: ignore[no-untyped-call]
        return True

    def discard(self) -> None:
        """Take back a run in which nothing happened (MLflow keeps deleted runs, so that it can be restored)."""
        self.client.set_terminated(self.id, "FAILED")
        self.client.delete_run(self.id)
        self.running = False
