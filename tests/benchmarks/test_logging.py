"""What logging every step costs, as a share of the main job: `make bench`."""

import statistics
import time

import pytest

from conftest import REGRESSOR
from gradgrad.cli import main
from gradgrad.tracking import MLflowLogger

ROUNDS = 3


@pytest.fixture
def clocked(monkeypatch):
    """Time what the logger does with metrics, and nothing else."""
    spent = [0.0]

    def clock(name):
        method = getattr(MLflowLogger, name)

        def timed(self, *args, **kwargs):
            start = time.perf_counter()
            inside = getattr(self, "_inside", False)
            self._inside = True
            try:
                return method(self, *args, **kwargs)
            finally:
                self._inside = inside
                if not inside:
                    spent[0] += time.perf_counter() - start

        monkeypatch.setattr(MLflowLogger, name, timed)

    for name in ("log_metrics", "flush"):
        clock(name)
    return spent


def test_logging_every_step(benchmark, project, clocked):
    shares = []

    def job():
        clocked[0] = 0.0
        start = time.perf_counter()
        assert main(["fit", "-c", str(REGRESSOR), "--trainer.enable_progress_bar=false"]) == 0
        shares.append(clocked[0] / (time.perf_counter() - start))

    benchmark.pedantic(job, rounds=ROUNDS, warmup_rounds=1)
    share = statistics.median(shares[1:])
    benchmark.extra_info["share of the job spent on metrics"] = round(share, 4)
    print(f"\nlogging 3 metrics at each of 1000 steps: {share:.1%} of the job without imports (goal: below 5 %)")
