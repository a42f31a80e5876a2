"""One run of MLflow from its opening to its end, which says the truth."""

import logging
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradgrad.tracking.delivery import Delivery
from gradgrad.tracking.kept import inside, keep
from gradgrad.tracking.process import this_process
from gradgrad.tracking.ranks import first_failure
from gradgrad.tracking.secrets import redact, redact_tree
from gradgrad.tracking.spool import Spool
from gradgrad.tracking.store import find_experiment, local_folder, open_store, tracking_uri
from gradgrad.tracking.verdict import Verdict, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import RunInfo

log = logging.getLogger(__name__)


class TrackedRun:
    """A run that is opened when something is to be recorded, and not before.

    All that is recorded afterwards goes through a :class:`Spool`, so that it costs no waiting and survives server and process.

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
        self.run_id, self.pace = run_id, pace
        self.attached = run_id is not None
        self.resumed = False
        self.first_step = 0
        self.running = False
        self.world_size = 1
        self.failed_at: float | None = None  # seconds since 1970
        self.end: Verdict | None = None  # how it ended, once it has
        self.delivered = True  # whether MLflow had all at the last look
        self._checkpoints: dict[str, str] = {}
        self._client: MlflowClient | None = None
        self._delivery: Delivery | None = None
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

    def put(self, kind: str, payload: Any) -> None:
        """Record something; it is safe before this returns, and on its way to MLflow.

        Args:
            kind: a key of :data:`gradgrad.tracking.senders.SENDERS`.
            payload: what JSON knows.
        """
        self._opened().spool.put(kind, payload)

    def _opened(self) -> Delivery:
        if self._delivery is None:
            self._delivery = Delivery(self.client, Spool.of_run(self.id), self.pace)
        return self._delivery

    def wake(self) -> None:
        """Deliver what waits, without waiting for it."""
        if self._delivery is not None:
            self._delivery.wake()

    def drain(self) -> bool:
        """Wait until MLflow has all that was recorded, or does not answer.

        Returns:
            Whether it has.
        """
        self.delivered = self._delivery is None or self._delivery.drain()
        return self.delivered

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
        self.end = end = verdict(error)
        failure = first_failure(self.id, self.failed_at or time.time()) if error is not None and self.world_size > 1 else None
        stamp = f"-{int(time.time())}" if self.attached or self.resumed else ""  # an earlier traceback is never lost
        if failure is not None:  # what this process felt of it, a lost connection or a signal, is no reason
            self.end = end = Verdict("FAILED", 1, failure.kind)
            self.log_tags({"exception": f"{failure.kind} on rank {failure.rank}"})
            self.log_text(failure.traceback, f"traceback-rank{failure.rank}{stamp}.txt")
        elif error is not None and end.status == "FAILED":
            self.log_tags({"exception": end.reason})
            self.log_text("".join(traceback.format_exception(error)), f"traceback{stamp}.txt")
        elif end.reason:
            self.log_tags({"signal": end.reason})
        self._upload_checkpoints()
        self.log_tags({"steps": str(max(last_step, self.first_step))})
        if self._before is not None and not self.resumed:  # a later test does not change how the fit ended
            self._leave()
        else:
            self._end(end.status, int(time.time() * 1000))

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
        self._finish()

    def _finish(self) -> None:
        if self._delivery is None:
            return
        if not self.drain():
            log.warning(
                "%d entries of run %s wait in %s\nwrite: gradgrad sync, when the tracking store is back",
                len(self._delivery.spool),
                self.run_id,
                self._delivery.spool.file,
            )
        self._delivery.stop()
        self._delivery.spool.close()
        self._delivery = None

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

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, redacted.

        Args:
            tags: by name.
        """
        self.put("tags", {key: redact(value) for key, value in tags.items()})

    def log_text(self, text: str, path: str) -> None:
        """Store a text, redacted, as an artifact.

        Args:
            text: the content.
            path: name inside the run's artifacts.
        """
        self.put("text", {"text": redact(text), "path": path})

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Store a figure as an artifact.

        Args:
            figure: a matplotlib figure.
            path: name inside the run's artifacts, ends in ``.png``, ``.svg`` or ``.pdf``.
        """
        folder, _, name = path.rpartition("/")
        self._keep(name, folder, figure.savefig)

    def log_file(self, file: Path, folder: str = "") -> None:
        """Store a copy of a file as an artifact.

        Args:
            file: which may be gone afterwards.
            folder: name inside the run's artifacts; empty is their top.
        """
        self._keep(file.name, folder, lambda copy: shutil.copyfile(file, copy))

    def _keep(self, name: str, folder: str, write: Callable[[Path], object]) -> None:
        file = keep(self._opened().spool, name, write)
        if file is not None:
            self.put("file", {"file": str(file), "folder": folder, "copy": True})

    def remove_artifacts(self, folder: str) -> bool:
        """Remove a folder of artifacts, on this machine or another.

        Args:
            folder: name inside the run's artifacts.

        Returns:
            Whether there was one.
        """
        self.drain()  # else it may be on its way
        there = bool(self.client.list_artifacts(self.id, folder))
        if there:
            self.put("remove", {"path": folder})
        return there

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
