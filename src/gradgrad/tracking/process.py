"""Which process works on a run, and whether it still lives."""

import os
import socket
from collections.abc import Mapping

import psutil

HOST, PID, STARTED = "process.host", "process.pid", "process.started"


def this_process() -> dict[str, str]:
    """Name this process so that nobody takes a later one with its number for it.

    Returns:
        Tags: host, process number, seconds since 1970 at which it began.
    """
    return {HOST: socket.gethostname(), PID: str(os.getpid()), STARTED: repr(psutil.Process().create_time())}


def is_alive(tags: Mapping[str, str]) -> bool | None:
    """Tell whether a run's process lives.

    Args:
        tags: of the run.

    Returns:
        None where it cannot be known: another machine, or a run that names no process.
    """
    if tags.get(HOST) != socket.gethostname() or PID not in tags:
        return None
    try:
        process = psutil.Process(int(tags[PID]))
        same = abs(process.create_time() - float(tags.get(STARTED, "nan"))) < 1.0  # seconds: it is computed from clock ticks
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False
