"""MLflow's UI on this project's store, for this machine only."""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import NoReturn
from urllib.parse import urlsplit

from gradgrad.errors import UsageError
from gradgrad.tracking.secrets import redact
from gradgrad.tracking.store import database_file, open_store, tracking_uri

LOOPBACK = "127.0.0.1"


class Parser(argparse.ArgumentParser):
    """A parser without a usage dump."""

    def error(self, message: str) -> NoReturn:
        """Raise a sentence.

        Args:
            message: argparse's.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}\nexpected: gradgrad ui [--port N], N from 1 to 65535")


def ui(arguments: Sequence[str]) -> int:
    """Serve the UI until Ctrl-C.

    Args:
        arguments: ``--port N``; the default of 5000 moves to the next free port where it is taken.

    Returns:
        0 after Ctrl-C, else the server's exit code.

    Raises:
        UsageError: the port is taken.
    """
    parser = Parser("gradgrad ui", description="Open the MLflow UI on this project's runs (loopback only).")
    parser.add_argument(
        "--port", type=int, choices=range(1, 65536), metavar="N", default=None, help="default: 5000, or the next free one"
    )
    port: int | None = parser.parse_args(arguments).port
    uri = tracking_uri()
    if urlsplit(uri).scheme in ("http", "https"):
        print(f"The runs are on a server that has its own UI: {redact(uri)}")  # noqa: T201
        return 0
    if port is not None and not _is_free(port):
        raise UsageError(f"port {port} is taken.\nwrite: gradgrad ui --port <another>, or leave --port out")
    port = port or next((p for p in range(5000, 5100) if _is_free(p)), 0)
    database = database_file(uri)
    open_store(uri)
    # The address goes by environment, because a command line is seen by every user of the machine.
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **({"MLFLOW_DEFAULT_ARTIFACT_ROOT": (database.parent / "artifacts").as_uri()} if database else {}),
    }
    print(f"MLflow UI: http://{LOOPBACK}:{port} in some seconds   store: {redact(uri)}   (Ctrl-C ends it)", flush=True)  # noqa: T201
    command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, env=environment)
    try:
        return server.wait()
    except KeyboardInterrupt:  # the way that was offered to end it
        return 0
    finally:
        server.terminate()
        server.wait()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex((LOOPBACK, port)) != 0
