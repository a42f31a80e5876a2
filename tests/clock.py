"""Times of jobs that take turns: a slow minute is slow for all of them, and only ratios are quoted."""

import statistics
import time


def seconds(function, *args, clock=time.perf_counter):
    start = clock()
    function(*args)
    return clock() - start


def interleaved(jobs, rounds, repeats=1, clock=time.perf_counter):
    """Give the median seconds of each job over rounds in which each has its turn, after one that does not count.

    With one thread ``time.process_time`` is the same on a quiet machine, and on a busy one it does not count the neighbours.
    """
    for job in jobs:
        job()
    spent = [
        [seconds(lambda job=job: [job() for _ in range(repeats)], clock=clock) / repeats for job in jobs] for _ in range(rounds)
    ]
    return [statistics.median(column) for column in zip(*spent, strict=True)]
