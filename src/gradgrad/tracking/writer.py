"""What is recorded about a run, and its way to MLflow."""

import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradgrad.tracking.delivery import Delivery
from gradgrad.tracking.kept import keep
from gradgrad.tracking.secrets import redact
from gradgrad.tracking.spool import Spool

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


class RunWriter(ABC):
    """Writes tags, texts and files of a run into its :class:`Spool`, so that it costs no waiting and survives server and process.

    Args:
        pace: seconds that what is recorded may wait before it is delivered.
    """

    def __init__(self, pace: float) -> None:
        self.pace = pace
        self.delivered = True  # whether MLflow had all at the last look
        self._delivery: Delivery | None = None

    @property
    @abstractmethod
    def client(self) -> "MlflowClient":
        """MLflow's client; asking for it opens the run."""

    @property
    @abstractmethod
    def id(self) -> str:
        """The run's id; asking for it opens the run."""

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

    def _close_spool(self) -> None:
        if self._delivery is None:
            return
        if not self.drain():
            log.warning(
                "%d entries of run %s wait in %s\nwrite: gradgrad sync, when the tracking store is back",
                len(self._delivery.spool),
                self.id,
                self._delivery.spool.file,
            )
        self._delivery.stop()
        self._delivery.spool.close()
        self._delivery = None

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, redacted.

        Args:
            tags: by name.
        """
        if tags:
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
