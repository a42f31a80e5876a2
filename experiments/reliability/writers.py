"""Let 16 processes log at once, and count what MLflow has afterwards: `python experiments/reliability/writers.py`.

Each process is a run of its own that does nothing but log, by the same logger and spool as `gradgrad fit`, and waits for MLflow
after each step (`flush_seconds=0`): no training ever asks so much of a store. A flush is what that wait takes.
"""

import argparse
import csv
import logging
import os
import pwd
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

from servers import Server, wait_for

HERE = Path(__file__).parent
EXPERIMENT = "writers"
COLUMNS = ["store", "writers", "points", "lost", "duplicated", "errors", "seconds to open, worst"]
COLUMNS += ["ms per flush, median", "ms per flush, worst"]
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


class Load(NamedTuple):
    """What is logged: each writer sends a request a step."""

    writers: int = 16
    steps: int = 100
    keys: int = 10


class Written(NamedTuple):
    """What one writer saw."""

    run_id: str
    opening: float  # seconds
    flushes: list[float]  # seconds
    errors: list[str]  # warnings, and what ended it


class Kept(logging.Handler):
    """Warnings, which the logger gives where a store takes nothing, or would not take something."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def value(writer: int, key: int, step: int) -> float:
    """Another one at each place, and exact in every store."""
    return writer * 4096.0 + step + key / 64


def write(writer: int, load: Load, uri: str, folder: Path, start: Barrier) -> Written:
    """Be one of the processes."""
    os.chdir(folder)
    os.environ.update(MLFLOW_TRACKING_URI=uri, MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true")
    from gradgrad.tracking import MLflowLogger

    kept = Kept()
    logging.getLogger().addHandler(kept)
    logger, flushes = MLflowLogger(EXPERIMENT, run_name=f"writer {writer}", flush_seconds=0), []
    start.wait()
    opening = time.perf_counter()
    try:
        _ = logger.run_id
        opening = time.perf_counter() - opening
        start.wait()  # for the slowest
        for step in range(load.steps):
            begin = time.perf_counter()
            logger.log_metrics({f"train/{key}": value(writer, key, step) for key in range(load.keys)}, step)
            flushes.append(time.perf_counter() - begin)
        logger.finalize()
    except Exception as error:
        kept.messages.append(f"{type(error).__name__}: {error}")
        start.abort()  # else the others wait for this one
    return Written(str(logger.version), opening, flushes, kept.messages)


_start: Barrier


def _begin(start: Barrier) -> None:
    global _start
    _start = start


def _write(writer: int, load: Load, uri: str, folder: Path) -> Written:
    return write(writer, load, uri, folder, _start)


def examine(store: str, uri: str, folder: Path, load: Load) -> list[str | float]:
    """Let all write at once, and compare what is there with what was logged."""
    context = get_context("forkserver")
    # Imported once; by 16 processes on two cores it would take most of a minute.
    context.set_forkserver_preload(["gradgrad.tracking", "mlflow.store.tracking.sqlalchemy_store"])
    start = context.Barrier(load.writers)
    with context.Pool(load.writers, _begin, (start,)) as pool:
        written = pool.starmap(_write, [(writer, load, uri, folder) for writer in range(load.writers)], chunksize=1)
    lost, duplicated, points, errors = 0, 0, 0, [message for one in written for message in one.errors]
    for writer, one in enumerate(written):
        wanted = Counter((f"train/{k}", s, value(writer, k, s)) for k in range(load.keys) for s in range(load.steps))
        found, status = points_of(uri, one.run_id, load.keys)
        points += sum(found.values())
        lost += sum((wanted - found).values())
        duplicated += sum((found - wanted).values())
        errors += [] if status == "FINISHED" else [f"writer {writer} ended {status}"]
    errors += [f"left behind: {file.name}" for file in (folder / "mlruns" / "spool").glob("*.db")]
    for error in errors:
        print(f"{store}: {error}", file=sys.stderr)
    waits = [1000 * seconds for one in written for seconds in one.flushes]
    opening = round(max(one.opening for one in written), 1)
    return [
        store,
        load.writers,
        points,
        lost,
        duplicated,
        len(errors),
        opening,
        round(statistics.median(waits)),
        round(max(waits)),
    ]


def points_of(uri: str, run_id: str, keys: int) -> tuple[Counter[tuple[str, int, float]], str]:
    """All points of a run, with how often each is there; and how it ended."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    histories = [client.get_metric_history(run_id, f"train/{key}") for key in range(keys)]
    found = Counter((metric.key, metric.step, metric.value) for history in histories for metric in history)
    return found, client.get_run(run_id).info.status


def postgres_folder() -> Path | None:
    """Find PostgreSQL's programs; Debian keeps its server's off the PATH."""
    found = [Path(file).parent for file in [shutil.which("postgres")] if file]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


@contextmanager
def postgres(programs: Path) -> Iterator[str]:
    """Start a PostgreSQL of one's own that only this user reaches, and give its address."""
    other = {"user": "nobody"} if os.getuid() == 0 else {}  # it refuses to run as root
    with tempfile.TemporaryDirectory() as temporary:  # mode 700
        folder = Path(temporary)
        if other:
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        data = folder / "data"
        initialize = [programs / "initdb", "-D", data, "-U", "gradgrad", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        subprocess.run(initialize, check=True, cwd=folder, **other, **QUIET)
        # A socket in a folder that is closed to others, and no port.
        command = [programs / "postgres", "-D", data, "-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}"]
        process = subprocess.Popen(command, cwd=folder, **other, **QUIET)
        try:
            wait_for(lambda: (folder / ".s.PGSQL.5432").exists(), process)
            yield f"postgresql+psycopg2://gradgrad@/postgres?host={folder}"
        finally:
            process.send_signal(signal.SIGINT)  # its "fast" shutdown
            process.wait(timeout=30)


def on_sqlite(folder: Path, load: Load) -> list[str | float]:
    """A fresh file, which the writers make."""
    return examine("SQLite file", f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}", folder, load)


def on_postgres(folder: Path, load: Load, programs: Path) -> list[str | float]:
    """A fresh database, behind a server."""
    with postgres(programs) as store:
        server = Server(store, folder / "artifacts", workers=2)
        try:
            server.start()
            return examine("mlflow server on PostgreSQL", server.uri, folder, load)
        finally:
            server.kill()


def main() -> int:
    """Write the table; the exit code says whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in Load()._asdict().items():
        parser.add_argument(f"--{name}", type=int, default=default)
    load = Load(**vars(parser.parse_args()))
    rows, programs = [], postgres_folder()
    for on, needed in ((on_sqlite, ()), (on_postgres, (programs,))):
        if None in needed:
            print("no PostgreSQL (Debian: postgresql)")
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(on(Path(folder), load, *needed))
        print(dict(zip(COLUMNS, rows[-1], strict=True)), flush=True)
    with (HERE / "writers.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return int(any(lost or duplicated or errors for _, _, _, lost, duplicated, errors, *_ in rows))


if __name__ == "__main__":
    sys.exit(main())
