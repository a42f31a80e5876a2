"""Does a server in trouble slow the training? Good and bad seconds in turn: `python experiments/reliability/slowdown.py`."""

import argparse
import io
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from outages import Proxy, fit, served
from scipy.stats import ttest_1samp

TROUBLES = {"dead": {"dead": True}, "answers 500": {"fails": True}, "takes 3 s for each answer": {"delay": 3.0}}
SETTLE = 0.5  # seconds after a turn that count for neither


def step_times(uri: str) -> np.ndarray[Any, Any]:
    """When each step was logged, in seconds since 1970: the training's own stamps."""
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("gradient_norm_regressor").experiment_id])
    return np.array(sorted(metric.timestamp for metric in client.get_metric_history(run.info.run_id, "train/loss"))) / 1000


def examine(name: str, turns: int, seconds: float, epochs: int) -> None:
    """Train once while the server is good and bad in turn; compare each bad turn with the good ones beside it."""
    with tempfile.TemporaryDirectory() as temporary, served(Path(temporary)) as server:
        proxy = Proxy(server)
        process = fit(Path(temporary), proxy.uri, epochs)
        reader = threading.Thread(target=(process.stdout or io.StringIO()).read)
        reader.start()
        while not list((Path(temporary) / "mlruns" / "spool").glob("*.db*")) and process.poll() is None:
            time.sleep(0.1)
        time.sleep(5)
        marks = []
        for turn in range(2 * turns + 1):
            proxy.trouble = TROUBLES[name] if turn % 2 else {}
            marks.append(time.time())
            time.sleep(seconds)
        proxy.trouble = {}
        alive = process.poll() is None
        process.wait()
        reader.join()
        times = step_times(server.uri)
        proxy.shutdown()
    rates = [np.sum((times > mark + SETTLE) & (times <= mark + seconds)) / (seconds - SETTLE) for mark in marks]
    ratios = [rates[n] / ((rates[n - 1] + rates[n + 1]) / 2) for n in range(1, len(rates) - 1, 2)]
    interval = ttest_1samp(ratios, 1.0).confidence_interval()
    told = f"{100 * (1 - np.mean(ratios)):+.1f} % [{100 * (1 - interval.high):+.1f}, {100 * (1 - interval.low):+.1f}]"
    print(f"{name:26} slower by {told}, {turns} turns of {seconds:g} s, {np.median(rates):.0f} steps per second", flush=True)
    if not alive:
        print("the training ended before the turns did: write --epochs <more>")


def main() -> None:
    """Print one line for each kind of trouble: mean and 95 % interval over turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--epochs", type=int, default=1500)
    options = parser.parse_args()
    for name in TROUBLES:
        examine(name, options.turns, options.seconds, options.epochs)


if __name__ == "__main__":
    main()
