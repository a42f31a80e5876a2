"""MLflow's UI on this project's store, for this machine unless told otherwise."""

import argparse
import ipaddress
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

import psutil

from gradgrad.errors import UsageError
from gradgrad.tracking.secrets import redact
from gradgrad.tracking.store import database_file, open_store, tracking_uri
from gradgrad.tracking.verb import Parser

LOOPBACK = "127.0.0.1"


def _port(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def ui(arguments: Sequence[str]) -> int:
    """Serve the UI until Ctrl-C.

    Args:
        arguments: ``--port N``, whose default of 5000 moves to the next free port where it is taken; ``--host NAME``, an address
            of this machine; ``--allow_remote``, without which the address must be loopback.

    Returns:
        0 after Ctrl-C, else the server's exit code.

    Raises:
        UsageError: the port is taken, the address is not this machine's, or others can reach it and nobody allowed that.
    """
    expected = "gradgrad ui [--port N] [--host NAME [--allow_remote]], N from 1 to 65535"
    parser = Parser("gradgrad ui", expected, "Open the MLflow UI on this project's runs.")
    parser.add_argument("--port", type=_port, metavar="N", default=None, help="default: 5000, or the next free one")
    parser.add_argument("--host", metavar="NAME", default=LOOPBACK, help=f"the address to listen at; default: {LOOPBACK}")
    help_ = "let other machines in; there is no password: whoever reaches the port can read, change and delete all runs"
    parser.add_argument("--allow_remote", action="store_true", help=help_)
    settings = parser.parse_args(arguments)
    host: str = settings.host
    uri = tracking_uri()
    if urlsplit(uri).scheme in ("http", "https"):
        print(f"The runs are on a server that has its own UI: {redact(uri)}")  # noqa: T201
        return 0
    remote = not _is_loopback(host)
    if remote and not settings.allow_remote:
        raise UsageError(
            f"others can reach --host {host}, and whoever does can read, change and delete all runs: there is no password.\n"
            f"write:    gradgrad ui, and on the other machine: ssh -L 5000:{LOOPBACK}:5000 <this machine>\n"
            f"or, in a network that you trust: gradgrad ui --host {host} --allow_remote"
        )
    port = _free_port(host, settings.port)
    open_store(uri)
    shown = f"[{host}]" if ":" in host else host
    print(f"MLflow UI: http://{shown}:{port} in some seconds   store: {redact(uri)}   (Ctrl-C ends it)", flush=True)  # noqa: T201
    if remote:
        warning = "warning: no password; whoever reaches this port can read, change and delete all runs"
        print(warning, file=sys.stderr, flush=True)  # noqa: T201
    return _serve(host, port, _environment(uri, _names(host, port) if remote else []))


def _serve(host: str, port: int, environment: dict[str, str]) -> int:
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, env=environment)
    try:
        return server.wait()
    except KeyboardInterrupt:  # the way that was offered to end it
        return 0
    finally:
        server.terminate()
        server.wait()


def _environment(uri: str, names: Sequence[str]) -> dict[str, str]:
    """Settings of the server; the store's address is one, because a command line is seen by every user of the machine."""
    database = database_file(uri)
    # MLflow answers 403 to names that it does not know, and drops what a page under such a name sends, against DNS rebinding.
    known = {"MLFLOW_SERVER_ALLOWED_HOSTS": names, "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": [f"http://{name}" for name in names]}
    return {
        **({key: ",".join(values) for key, values in known.items()} if names else {}),
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **({"MLFLOW_DEFAULT_ARTIFACT_ROOT": (database.parent / "artifacts").as_uri()} if database else {}),
    }


def _names(host: str, port: int) -> list[str]:
    """All that this machine is called, as a browser writes it."""
    addresses = {address.address.partition("%")[0] for each in psutil.net_if_addrs().values() for address in each}
    numbers = {f"[{text}]" if ":" in text else text for text in addresses if _is_address(text)}
    names = numbers | {"localhost", socket.gethostname(), socket.getfqdn()} | ({host} if not _is_address(host) else set())
    return sorted(f"{name}:{port}" for name in names)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _free_port(host: str, port: int | None) -> int:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.bind((address[0], 0))
    except OSError as error:
        raise UsageError(
            f"--host {host} is no address of this machine.\nwrite:    gradgrad ui, which is for this machine"
        ) from error
    if port is not None and not _is_free(family, address[0], port):
        raise UsageError(f"port {port} is taken.\nwrite: gradgrad ui --port <another>, or leave --port out")
    return port or next((p for p in range(5000, 5100) if _is_free(family, address[0], p)), 0)


def _is_free(family: socket.AddressFamily, address: str | int, port: int) -> bool:
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
