"""Two ranks as two processes of this machine."""

import socket

from torch import multiprocessing


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def two_ranks(target, told, seconds):
    """Call target(rank, port, results) in each; gives the ``told`` things that they put into results."""
    port = free_port()
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=target, args=(rank, port, results)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=seconds) for _ in range(told)]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    return found
