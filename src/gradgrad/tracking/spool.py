"""What a run has yet to tell MLflow, in a file of this machine."""

import json
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gradgrad.tracking.secrets import redact
from gradgrad.tracking.store import FOLDER

SPOOL = "spool"
log = logging.getLogger(__name__)
TABLES = """
CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS refused (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL, reason TEXT NOT NULL);
"""


class Entry(NamedTuple):
    """One thing to tell.

    Attributes:
        id: larger for later ones.
        kind: a key of :data:`gradgrad.tracking.senders.SENDERS`.
        payload: its content, as JSON knows it.
    """

    id: int
    kind: str
    payload: Any


class SpoolInUseError(Exception):
    """A living process writes into this spool."""


class Spool:
    """An append-only queue in a SQLite file, which outlives the process that writes it.

    What is put here is with the operating system before :meth:`put` returns, so that neither a dead server nor ``kill -9`` loses
    it. Where the disk is full it waits in memory, is written when there is room again, and can be delivered meanwhile.

    Args:
        file: made where there is none; what a dead process left there comes first.

    Raises:
        SpoolInUseError: a living process holds it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.RLock()
        self._waiting: deque[Entry] = deque()  # for room on the disk
        self._delivered = 0  # largest id that need not be kept
        self._complained = False
        self._database: sqlite3.Connection | None = None
        self._connect()
        self._last = self._largest()

    @classmethod
    def of_run(cls, run_id: str) -> "Spool":
        """Open a run's spool.

        Args:
            run_id: MLflow's.

        Returns:
            The first that no living process holds; two may log into one run.
        """
        folder, number = spool_folder(), 0
        while True:
            try:
                return cls(folder / f"{run_id}{f'.{number}' if number else ''}.db")
            except SpoolInUseError:
                number += 1

    @property
    def run_id(self) -> str:
        """The run that it belongs to."""
        return self.file.name.partition(".")[0]

    @property
    def folder(self) -> Path:
        """Where files wait that are to become artifacts."""
        return self.file.with_suffix(".files")

    def _connect(self) -> None:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self.file, timeout=0, isolation_level=None, check_same_thread=False)
            # For this process alone until it ends, however it ends: SQLite's own lock. It also lets the write-ahead log do
            # without shared memory, which network file systems lack. NORMAL does not wait for the disk.
            for setting in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
                database.execute(f"PRAGMA {setting}")
            database.executescript(TABLES)
            self._database = database
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise SpoolInUseError(str(self.file)) from error
            self._complain(error)

    def _largest(self) -> int:
        if self._database is None:
            return 0
        query = "SELECT max(id) FROM (SELECT id FROM entries UNION ALL SELECT id FROM refused)"
        return int(self._database.execute(query).fetchone()[0] or 0)

    def put(self, kind: str, payload: Any) -> None:
        """Append.

        Args:
            kind: a key of :data:`gradgrad.tracking.senders.SENDERS`.
            payload: what JSON knows.
        """
        with self._lock:
            self._last += 1
            self._waiting.append(Entry(self._last, kind, payload))
            self._write()

    def _write(self) -> None:
        """Bring to the disk what waits for it."""
        if self._database is None:
            self._connect()
        if self._database is None or not self._waiting:
            return
        rows = [(entry.id, entry.kind, json.dumps(entry.payload)) for entry in self._waiting]
        try:
            with self._transaction(self._database):
                self._database.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            self._complain(error)
        else:
            self._waiting.clear()

    @staticmethod
    def _transaction(database: sqlite3.Connection) -> sqlite3.Connection:
        database.execute("BEGIN")
        return database  # as a context it commits, or rolls back

    def head(self, count: int) -> list[Entry]:
        """Look at the oldest entries.

        Args:
            count: how many at most.

        Returns:
            In order.
        """
        with self._lock:
            found: list[Entry] = []
            if self._database is not None:
                query = "SELECT id, kind, payload FROM entries WHERE id > ? ORDER BY id LIMIT ?"
                rows = self._database.execute(query, (self._delivered, count))
                found = [Entry(id_, kind, json.loads(payload)) for id_, kind, payload in rows]
            return (found + [entry for entry in self._waiting if entry.id > self._delivered])[:count]

    def drop(self, entries: Iterable[Entry]) -> None:
        """Forget the oldest entries, because MLflow has them.

        Args:
            entries: of :meth:`head`.
        """
        with self._lock:
            self._delivered = max([self._delivered, *(entry.id for entry in entries)])
            while self._waiting and self._waiting[0].id <= self._delivered:
                self._waiting.popleft()
            self._try("DELETE FROM entries WHERE id <= ?", (self._delivered,))

    def refuse(self, entry: Entry, reason: str) -> None:
        """Put an entry aside that MLflow will never take; it stays in the file.

        Args:
            entry: the oldest.
            reason: MLflow's.
        """
        with self._lock:
            row = (entry.id, entry.kind, json.dumps(entry.payload), reason)
            self._try("INSERT OR REPLACE INTO refused VALUES (?, ?, ?, ?)", row)
            self.drop([entry])

    def _try(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            if self._database is not None:
                self._database.execute(statement, values)
        except sqlite3.Error as error:  # what was delivered is skipped all the same, and MLflow stores nothing twice
            self._complain(error)

    def __len__(self) -> int:
        """Entries that MLflow does not have."""
        with self._lock:
            waiting = sum(entry.id > self._delivered for entry in self._waiting)
            if self._database is None:
                return waiting
            query = "SELECT count(*) FROM entries WHERE id > ?"
            return waiting + int(self._database.execute(query, (self._delivered,)).fetchone()[0])

    @property
    def refused(self) -> int:
        """Entries that MLflow would not take."""
        with self._lock:
            return 0 if self._database is None else int(self._database.execute("SELECT count(*) FROM refused").fetchone()[0])

    def close(self) -> None:
        """Let go of the file, and remove it where nothing waits in it."""
        with self._lock:
            self._write()
            empty = not len(self) and not self.refused
            if self._database is not None:
                self._database.close()
                self._database = None
            if empty:
                for file in (self.file, *(self.file.with_name(self.file.name + tail) for tail in ("-wal", "-shm", "-journal"))):
                    file.unlink(missing_ok=True)
                if self.folder.is_dir() and not any(self.folder.iterdir()):
                    self.folder.rmdir()

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            log.warning(
                "the spool of run %s cannot be written: %s\n"
                "what it would hold waits in memory, is delivered from there, and written when there is room again",
                self.run_id,
                redact(str(error)),
            )
        self._complained = True


def spool_folder() -> Path:
    """Say where spools are: on this machine, also where MLflow's server is another.

    Returns:
        ``mlruns/spool`` under the current folder.
    """
    folder = Path.cwd() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if not (ignore := folder / ".gitignore").exists():
        ignore.write_text("*\n")
    return folder / SPOOL


def spools() -> Iterator[Path]:
    """List the spools that are there.

    Yields:
        Their files, those of one run in the order in which they were made.
    """
    yield from sorted(spool_folder().glob("*.db"), key=lambda file: file.stat().st_mtime)
