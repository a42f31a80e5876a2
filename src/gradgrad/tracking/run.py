"""One run of MLflow from its opening to its end, which says the truth."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gradgrad.tracking.account import account
from gradgrad.tracking.kept import inside
from gradgrad.tracking.process import this_process
from gradgrad.tracking.ranks import first_failure
from gradgrad.tracking.secrets import redact, redact_tree
from gradgrad.tracking.store import find_experiment, local_folder, open_store, tracking_uri
from gradgrad.tracking.verdict import Verdict
from gradgrad.tracking.writer import RunWriter

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import RunInfo

log = logging.getLogger(__name__)


class TrackedRun(RunWriter):
    """A run that is opened when something is to be recorded, and not before.

    Args:
        experiment_name: of the experiment.
        run_name: None means the experiment's name.
        tags: added to the run.
        run_id: an existing run to go on with.
        pace: seconds that what is recorded may wait before it is delivered.
    """

    def __init__(
        self, experiment_name: str, run_name: str | None, tags: Mapping[str, str], run_id: str | None, pace: float = 5.0
    ) -> None:
        self.experiment_name, self.run_name, self.tags = experiment_name, run_name, dict(tags)
        super().__init__(pace)
        self.run_id = run_id
        self.attached = run_id is not None
        self.resumed = False
        self.first_step = 0
        self.running = False
        self.world_size = 1
        self.failed_at: float | None = None  # seconds since 1970
        self.end: Verdict | None = None  # how it ended, once it has
        self._checkpoints: dict[str, str] = {}
        self._client: MlflowClient | None = None
        self._artifact_uri = ""
        self._before: RunInfo | None = None  # how a run stood before this process
        self._cleared: dict[str, str] = {}  # tags of how a resumed run had ended

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
                run = client.create_run(experiment_id, tags={**tags, **this_process()}, run_name=name)
                self.run_id, self.running = run.info.run_id, True
            else:
                run = client.get_run(self.run_id)
                self._before = run.info
                if not self.resumed:
                    self.first_step = max(self.first_step, int(run.data.tags.get("steps", 0)))
            self._artifact_uri = run.info.artifact_uri
            self._client = client
            if self.resumed:
                self.reopen()
                self._cleared = {key: run.data.tags[key] for key in ("exception", "signal", "steps") if key in run.data.tags}
                self.log_tags(dict.fromkeys(self._cleared, ""))  # of an earlier end
        return self._client

    @property
    def id(self) -> str:
        """The run's id; asking for it opens the run."""
        _ = self.client
        return str(self.run_id)

    @property
    def artifact_dir(self) -> Path | None:
        """The run's artifact folder, where it is a folder of this machine; else None."""
        _ = self.client
        return local_folder(self._artifact_uri)

    def attach(self, run_id: str, step: int = 0) -> None:
        """Go on in a run that exists; how that one ended stays as it is.

        Args:
            run_id: MLflow's.
            step: of the checkpoint at hand. A new process counts from 0, but MLflow takes the value of the largest step for
                the latest one, so what is logged now must not stand before what was logged then.
        """
        self.run_id, self.attached, self.first_step = run_id, True, step

    def resume(self, run_id: str) -> None:
        """Go on with an unfinished run as its owner: its steps go on, and its end is this process's.

        Args:
            run_id: MLflow's.
        """
        self.run_id, self.resumed, self.attached, self.first_step = run_id, True, False, 0

    def reopen(self) -> None:
        """Say that the run goes on, after an end or in an attached run."""
        if not self.running and self.id:
            self.put("running", None)
            self.put("tags", this_process())
            self.running = True

    def close(self, error: BaseException | None, last_step: int) -> None:
        """End the run.

        Args:
            error: what ended it; None after a good end.
            last_step: the largest step that was logged.
        """
        rank_failed = first_failure(self.id, self.failed_at or time.time()) if error is not None and self.world_size > 1 else None
        # A run that goes on: an earlier traceback is never lost.
        stamp = f"-{int(time.time())}" if self.attached or self.resumed else ""
        self.end, tags, texts = account(error, rank_failed, stamp)
        self.log_tags(tags)
        for path, text in texts.items():
            self.log_text(text, path)
        self._upload_checkpoints()
        self.log_tags({"steps": str(max(last_step, self.first_step))})
        if self._before is not None and not self.resumed:  # a later test does not change how the fit ended
            self._leave()
        else:
            self._end(self.end.status, int(time.time() * 1000))

    def withdraw(self) -> None:
        """End a resumption in which nothing happened: the run stands as it stood."""
        self.log_tags(self._cleared)
        self._leave()

    def _leave(self) -> None:
        ended = self._before is not None and self._before.status != "RUNNING"
        self._end(*((self._before.status, self._before.end_time) if self._before and ended else (None, None)))

    def _end(self, status: str | None, end_time: int | None) -> None:
        self.put("end", {"status": status, "end_time": end_time})
        self.running = False
        self._close_spool()

    def log_checkpoint(self, kind: str, path: str) -> None:
        """Remember where a checkpoint is.

        Args:
            kind: ``best`` or ``last``.
            path: the file.
        """
        if self._checkpoints.get(kind) != path:
            self._checkpoints[kind] = path
            self.log_tags({f"checkpoint.{kind}": inside(self.artifact_dir, path) or path})

    def _upload_checkpoints(self) -> None:
        """Copy those that could not be written among the artifacts, because these are on another machine."""
        for kind, path in self._checkpoints.items():
            if inside(self.artifact_dir, path) is None and Path(path).is_file():
                self.put("file", {"file": path, "folder": "checkpoints", "copy": False})
                self.log_tags({f"checkpoint.{kind}": f"checkpoints/{Path(path).name}"})

    def discard(self) -> None:
        """Take back a run in which nothing happened (MLflow keeps deleted runs, so that it can be restored)."""
        if self._delivery is not None:
            self._delivery.stop()
            self._delivery.spool.drop(self._delivery.spool.head(1_000_000))
            self._delivery.spool.close()
            self._delivery = None
        self.client.set_terminated(self.id, "FAILED")
        self.client.delete_run(self.id)
        self.running = False
