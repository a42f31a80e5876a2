"""Times of jobs that take turns: a slow minute is slow for all of them, and only ratios are quoted."""

import statistics
import time


def seconds(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def interleaved(jobs, rounds, repeats=1):
    """Give the median seconds of each job over rounds in which each has its turn, after one that does not count."""
    for job in jobs:
        job()
    spent = [[seconds(lambda job=job: [job() for _ in range(repeats)]) / repeats for job in jobs] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*spent, strict=True)]
