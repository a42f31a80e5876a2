"""A process that has imported torch, lightning and mlflow, and forks one trial off after another."""

import multiprocessing
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running


def fork_server() -> ForkServerContext:
    """Name the server of this process; the first trial starts it, or :func:`warm_up`.

    It runs no thread and touches no accelerator, so what is forked off it is as good as a new process.

    Returns:
        Its context.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gradgrad.sweeps.preload"])
    return context


def warm_up() -> None:
    """Start the server; it imports while this process goes on."""
    fork_server()
    ensure_running()
