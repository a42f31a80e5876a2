"""Cause faults while `gradgrad fit` runs, and count what MLflow has afterwards: `python experiments/reliability/outages.py`."""

import argparse
import csv
import http.client
import io
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from servers import Server

HERE = Path(__file__).parent
CONFIG = HERE.parents[1] / "configs" / "gradient_norm_regressor.yaml"
COLUMNS = ["fault", "points", "lost", "duplicated", "status", "exit", "steps per second", "processor seconds", "to sync"]
CLOCK = ("seconds", "per_second", "system/", "step_time")  # in names of what no seed decides
Point = tuple[str, int, float]  # metric, step, value


def fit(folder: Path, uri: str | None, epochs: int) -> subprocess.Popen[str]:
    """Start a training whose curve is known."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"MLFLOW_TRACKING_URI": uri} if uri else {})}
    command = [sys.executable, "-m", "gradgrad", "fit", "-c", str(CONFIG), f"--trainer.max_epochs={epochs}"]
    command += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--system_metrics.every_seconds=1"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Proxy(ThreadingHTTPServer):
    """What stands before a server: passes on, fails, or takes its time."""

    daemon_threads = True

    def __init__(self, server: Server) -> None:
        self.mlflow, self.trouble = server, dict[str, Any]()
        super().__init__(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """Of one request."""

    server: Proxy

    def answer(self) -> None:
        """Ask the server behind, in the way that the fault wants."""
        proxy, body = self.server, self._body()
        if proxy.trouble.get("dead"):
            self.close_connection = True  # not a word
            return
        time.sleep(proxy.trouble.get("delay", 0.0))
        if proxy.trouble.get("fails"):
            self.send_error(500)
            return
        with closing(http.client.HTTPConnection("127.0.0.1", proxy.mlflow.port, timeout=60)) as connection:
            passed = {key: value for key, value in self.headers.items() if key.lower() != "transfer-encoding"}
            connection.request(self.command, self.path, body, passed)
            answer = connection.getresponse()
            content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""  # how requests sends an empty file
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Fault(NamedTuple):
    """Where the run logs to, what happens to it, and what makes the store readable afterwards."""

    uri: str | None
    cause: Callable[[], None]
    restore: Callable[[], None] = lambda: None


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    server = Server(f"sqlite:///{folder / 'server.db'}", folder / "artifacts")
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def nothing(folder: Path) -> Iterator[Fault]:
    yield Fault(None, lambda: None)


@contextmanager
def healthy(folder: Path) -> Iterator[Fault]:
    with served(folder) as server:
        yield Fault(server.uri, lambda: None)


@contextmanager
def killed(folder: Path) -> Iterator[Fault]:
    with served(folder) as server:
        yield Fault(server.uri, lambda: (server.kill(), time.sleep(6), server.start()))


@contextmanager
def killed_for_good(folder: Path) -> Iterator[Fault]:
    with served(folder) as server:
        yield Fault(server.uri, server.kill, server.start)


def through(**trouble: Any) -> Callable[[Path], AbstractContextManager[Fault]]:
    """A proxy that behaves so for a while."""

    @contextmanager
    def fault(folder: Path) -> Iterator[Fault]:
        with served(folder) as server:
            proxy = Proxy(server)

            def cause() -> None:
                proxy.trouble = trouble
                time.sleep(12)
                proxy.trouble = {}

            yield Fault(proxy.uri, cause)
            proxy.shutdown()

    return fault


@contextmanager
def locked(folder: Path) -> Iterator[Fault]:
    def cause() -> None:
        with closing(sqlite3.connect(folder / "mlruns" / "mlflow.db", timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(45)  # longer than MLflow's own patience of 20 s
            connection.execute("ROLLBACK")

    yield Fault(None, cause)


@contextmanager
def full_disk(folder: Path) -> Iterator[Fault]:
    """The spool lies on a file system of its own, which another file fills."""
    spool = folder / "mlruns" / "spool"
    spool.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(spool)], check=True)
    try:
        with served(folder) as server:

            def cause() -> None:
                server.kill()  # else the spool is nearly empty
                with (spool / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                    while True:
                        filler.write(bytes(4096))
                time.sleep(6)
                (spool / "filler").unlink()
                server.start()

            yield Fault(server.uri, cause)
    finally:
        subprocess.run(["umount", "-l", str(spool)], check=True)


FAULTS = {
    "none": nothing,
    "none, on a server": healthy,
    "server killed, back after 6 s": killed,
    "server killed for good, then gradgrad sync": killed_for_good,
    "server answers 500 for 12 s": through(fails=True),
    "server takes 3 s for each answer, for 12 s": through(delay=3.0),
    "SQLite file locked for 45 s": locked,
    "disk of the spool full for 6 s, server dead": full_disk,
}


def points_of(uri: str, experiment: str = "gradient_norm_regressor") -> tuple[Counter[Point], str, float]:
    """All points of the one run, with how often each is there; how it ended; and how fast it was in the middle."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    keys = [key for key in run.data.metrics if not any(word in key for word in CLOCK)]
    found = Counter(
        (key, metric.step, metric.value) for key in keys for metric in client.get_metric_history(run.info.run_id, key)
    )
    speed = median(metric.value for metric in client.get_metric_history(run.info.run_id, "system/steps_per_second"))
    return found, run.info.status, speed


def examine(
    name: str, fault: Callable[[Path], AbstractContextManager[Fault]], epochs: int, reference: Counter[Point] | None
) -> tuple[list[Any], Counter[Point]]:
    """Fit with a fault, and give its row of the table and the points that it should have."""
    with tempfile.TemporaryDirectory() as temporary, fault(Path(temporary)) as (uri, cause, restore):
        folder = Path(temporary)
        process = fit(folder, uri, epochs)
        while not list((folder / "mlruns" / "spool").glob("*.db*")) and process.poll() is None:
            time.sleep(0.1)
        time.sleep(3)
        causing = threading.Thread(target=cause)
        causing.start()
        with process.stdout or io.StringIO() as out:
            said = out.read()
        _, wait_status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(wait_status)
        causing.join()
        restore()
        store = uri or f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"
        if to_sync := "gradgrad sync" in said:
            environment = {**os.environ, "MLFLOW_TRACKING_URI": store}
            subprocess.run([sys.executable, "-m", "gradgrad", "sync"], cwd=folder, env=environment, check=True)
        found, status, speed = points_of(store)
    reference = reference or found
    lost, duplicated = sum((reference - found).values()), sum((found - reference).values())
    row = [name, sum(found.values()), lost, duplicated, status, process.returncode, round(speed, 1)]
    row += [round(used.ru_utime + used.ru_stime, 1), "yes" if to_sync else "no"]
    print(dict(zip(COLUMNS, row, strict=True)), said[-1500:] if lost or duplicated or process.returncode else "", flush=True)
    return row, reference


def main() -> None:
    """Cause all faults and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--only", default="", help="faults whose name contains this")
    options = parser.parse_args()
    rows: list[list[Any]] = []
    reference: Counter[Point] | None = None
    for name, fault in FAULTS.items():
        if name.startswith("none") or options.only in name:
            row, reference = examine(name, fault, options.epochs, reference)
            rows.append(row)
    with (HERE / "outages.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
