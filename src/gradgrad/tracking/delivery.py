"""From a spool to MLflow, by a thread that waits for servers so that the training need not."""

import logging
import math
import os
import threading
import time
from typing import TYPE_CHECKING

from gradgrad.tracking.secrets import redact
from gradgrad.tracking.senders import METRICS_PER_REQUEST, SENDERS, send_metrics
from gradgrad.tracking.spool import Entry, Spool

if TYPE_CHECKING:
    from mlflow import MlflowClient

HEARTBEAT = 60.0  # seconds between two signs of life, a guess: one small request a minute
LONGEST_PAUSE = 30.0  # seconds between two attempts to reach a dead server, a guess
NEVER = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")  # what no later attempt would change
log = logging.getLogger(__name__)


def deliver(client: "MlflowClient", spool: Spool) -> int:
    """Send all that a spool holds, in order.

    A request that is sent twice, because its answer was lost, changes nothing: MLflow stores equal points once.

    Args:
        client: of the store.
        spool: of a run.

    Returns:
        How many entries.

    Raises:
        Exception: the store's; what it does not have yet stays in the spool.
    """
    sent = 0
    while entries := spool.head(METRICS_PER_REQUEST):
        part = _alike(entries)
        try:
            _send(client, spool.run_id, part)
        except Exception as error:
            if not _for_good(error):
                raise
            sent += sum(_send_one(client, spool, entry) for entry in part)
            continue
        spool.drop(part)
        sent += len(part)
    return sent


def _alike(entries: list[Entry]) -> list[Entry]:
    """The metrics at the head, as many as one request takes; else the first entry."""
    part: list[Entry] = []
    for entry in entries:
        if entry.kind != "metrics" or sum(len(each.payload) for each in part) + len(entry.payload) > METRICS_PER_REQUEST:
            break
        part.append(entry)
    return part or entries[:1]


def _send(client: "MlflowClient", run_id: str, part: list[Entry]) -> None:
    if part[0].kind == "metrics":
        send_metrics(client, run_id, [metric for entry in part for metric in entry.payload])
    else:
        SENDERS[part[0].kind](client, run_id, part[0].payload)


def _send_one(client: "MlflowClient", spool: Spool, entry: Entry) -> int:
    try:
        _send(client, spool.run_id, [entry])
    except Exception as error:
        if not _for_good(error):
            raise
        if not spool.refused:
            reason = redact(str(error).splitlines()[0])
            log.warning("MLflow refuses %s of run %s, which stay in %s: %s", entry.kind, spool.run_id, spool.file, reason)
        spool.refuse(entry, redact(str(error)))
        return 0
    spool.drop([entry])
    return 1


def _for_good(error: Exception) -> bool:
    return getattr(error, "error_code", None) in NEVER


class Delivery:
    """The thread that delivers a spool while a run goes on.

    Args:
        client: of the store, used by this thread and the caller's.
        spool: of the run.
        pace: seconds that an entry may wait.
    """

    def __init__(self, client: "MlflowClient", spool: Spool, pace: float) -> None:
        # MLflow alone would try for minutes, and a process that ends would wait for that; here the spool tries again.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        self.client, self.spool, self.pace = client, spool, pace
        self._changed = threading.Condition()
        self._asked = self._urgent = self._stopped = False
        self._attempts = 0  # that ended, well or not
        self._trouble: float | None = None  # since when
        self._failures = 0
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"delivery of {spool.run_id}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Deliver now."""
        with self._changed:
            self._asked = True
            self._changed.notify_all()

    def drain(self, patience: float = 10.0, longest: float = 60.0) -> bool:
        """Wait until all is delivered.

        Args:
            patience: seconds to bear with a store that fails; 10 is a guess.
            longest: seconds to wait for one that does not answer at all; 60 is a guess, three times SQLite's own patience.

        Returns:
            Whether it is.
        """
        begin = time.monotonic()
        attempts, last = self._attempts, begin
        with self._changed:  # whatever the pause
            self._urgent, self._failures = True, 0
            self._changed.notify_all()
        while len(self.spool) and self._thread.is_alive():
            self.wake()
            with self._changed:
                self._changed.wait(0.2)
            now = time.monotonic()
            if self._attempts != attempts and self._trouble is None:
                attempts, last = self._attempts, now
            trouble = self._trouble
            if (trouble is not None and now - max(trouble, begin) > patience) or now - last > longest:
                return False
        return not len(self.spool)

    def stop(self) -> None:
        """End the thread; what is under way is finished or stays in the spool."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=5)

    def _pause(self) -> float:
        if self._trouble is None:
            return self.pace or HEARTBEAT
        return min(LONGEST_PAUSE, 0.5 * math.exp2(min(self._failures, 10)))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._stopped or self._urgent or (self._asked and self._trouble is None),
                    min(self._pause(), HEARTBEAT),
                )
                self._asked = self._urgent = False
                if self._stopped:
                    return
            self._attempt()
            with self._changed:
                self._attempts += 1
                self._changed.notify_all()

    def _attempt(self) -> None:
        try:
            sent = deliver(self.client, self.spool)
            if time.monotonic() - self._beat >= HEARTBEAT:
                self.client.set_tag(self.spool.run_id, "heartbeat", str(int(time.time())))
                self._beat = time.monotonic()
        except Exception as error:
            if self._trouble is None:
                reason = redact(str(error).splitlines()[0] if str(error) else type(error).__name__)
                log.warning(
                    "the tracking store does not take what run %s logs: %s\nit waits in %s; the training goes on",
                    self.spool.run_id,
                    reason,
                    self.spool.file,
                )
                self._trouble = time.monotonic()
            self._failures += 1
        else:
            if self._trouble is not None:
                log.warning("the tracking store is back: %d entries of run %s delivered", sent, self.spool.run_id)
            self._trouble, self._failures = None, 0
