"""`gradgrad doctor`: runs whose process is gone, what they left, and the store itself."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from gradgrad.errors import UsageError
from gradgrad.tracking.ending import end_run
from gradgrad.tracking.missing import missing, missing_models
from gradgrad.tracking.process import HOST, PID, is_alive
from gradgrad.tracking.relocate import moves, relocate
from gradgrad.tracking.spool import spool_folder, spools
from gradgrad.tracking.store import database_file, open_store, tracking_uri
from gradgrad.tracking.sync import deliver_file
from gradgrad.tracking.verb import Parser

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STALE = 600.0  # seconds without a sign of life after which another machine's process counts as gone: ten heartbeats, a guess


def doctor(arguments: Sequence[str]) -> int:
    """Examine the store and its runs, and mend what can be mended.

    Args:
        arguments: ``--dry-run``, ``--relocate``.

    Returns:
        0 if all is well now, 1 if something is left to do.

    Raises:
        UsageError: the store cannot be opened.
    """
    parser = Parser(
        "gradgrad doctor",
        "gradgrad doctor [--dry-run] [--relocate]",
        "Mark runs whose process is gone as KILLED, deliver what they left, and check the store and its artifacts.",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    parser.add_argument("--relocate", action="store_true", help="rewrite artifact links after the project was moved")
    options = parser.parse_args(arguments)
    uri = tracking_uri()
    database = database_file(uri)
    if database is not None and not database.exists():
        raise UsageError(
            f"there is no store: {database} does not exist.\nwrite: gradgrad fit first, or go to the project's folder"
        )
    left = []
    if database is not None:
        _check_integrity(database)
        left += _links(database, options.relocate, options.dry_run)
    with TemporaryDirectory() as folder:
        looked_at = uri if database is None or not options.dry_run else _snapshot(database, Path(folder))
        done, missing = _examine(open_store(looked_at), options.dry_run)
    left += missing
    for line in [*done, *left] or ["all is well"]:
        print(line)  # noqa: T201
    return 1 if left or (options.dry_run and done) else 0


def _snapshot(database: Path, folder: Path) -> str:
    """Copy the store: even reading it would move what its write-ahead log holds."""
    with (
        closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection,
        closing(sqlite3.connect(folder / database.name)) as copy,
    ):
        connection.backup(copy)
    return f"sqlite:///{folder / database.name}"


def _examine(client: "MlflowClient", dry_run: bool) -> tuple[list[str], list[str]]:
    """Look after the runs; tell what was done, and what is left to do."""
    done = list(_deliveries(client, dry_run))
    runs = list(_all_runs(client))
    done += [line for run in runs if run.info.status == "RUNNING" and (line := _bury(client, run, dry_run))]
    done += list(_words(runs, dry_run))
    return done, [line for run in runs for line in missing(run)] + list(missing_models(client))


def _check_integrity(database: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
            answers = [answer for (answer,) in connection.execute("PRAGMA integrity_check")]
    except sqlite3.DatabaseError as error:
        answers = [str(error)]
    if answers != ["ok"]:
        raise UsageError(
            f"{database} is damaged: {answers[0]}\nexpected: a SQLite file that is whole\n"
            f"write:    sqlite3 {database.name} .recover | sqlite3 recovered.db, and put that in its place"
        )


def _links(database: Path, asked: bool, dry_run: bool) -> list[str]:
    if asked and not dry_run:
        for line in relocate(database):
            print(line)  # noqa: T201
    return [
        f"artifacts of {old} are in {new} {'too, a copy' if old.exists() else 'now'}: write gradgrad doctor --relocate"
        for old, new in moves(database)
    ]


def _deliveries(client: "MlflowClient", dry_run: bool) -> Iterator[str]:
    for file in spools():
        if dry_run:
            run_id = file.name.partition(".")[0]
            yield f"run {run_id}: {file.name} waits for delivery, or its process lives"
        elif (line := deliver_file(client, file)[0]) and "its process lives" not in line:
            yield line


def _all_runs(client: "MlflowClient") -> Iterator["Run"]:
    for experiment in client.search_experiments():
        token = None
        while True:
            page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                break


def _bury(client: "MlflowClient", run: "Run", dry_run: bool) -> str | None:
    tags, run_id = run.data.tags, run.info.run_id
    alive, seen = is_alive(tags), _last_sign(run)
    where = f"process {tags[PID]} of {tags[HOST]}" if PID in tags and HOST in tags else "a process that left no name"
    if alive or (alive is None and (PID not in tags or time.time() - seen / 1000 < STALE)):
        return None
    if not dry_run:
        client.set_tag(run_id, "signal", "gone")
        end_run(client, run_id, "KILLED", seen)
    return f"run {run_id} ({run.info.run_name}): {where} is gone; {'would be' if dry_run else 'is'} KILLED now"


def _words(runs: Sequence["Run"], dry_run: bool) -> Iterator[str]:
    """Clear away what ranks had to say of runs that have ended."""
    ended = {run.info.run_id for run in runs if run.info.status != "RUNNING"}
    for file in spool_folder().glob("*.rank*.txt"):
        if file.name.partition(".")[0] in ended:
            yield f"{file.name}: the run has ended for an earlier reason; {'would be' if dry_run else 'is'} removed"
            if not dry_run:
                file.unlink()


def _last_sign(run: "Run") -> int:
    """When a run was last heard of, in milliseconds since 1970."""
    beat = int(float(run.data.tags.get("heartbeat", 0)) * 1000)
    points = [int(metric.timestamp) for metric in run.data._metric_objs]
    return max([int(run.info.start_time), beat, *points])
