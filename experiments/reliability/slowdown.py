"""What a logged step costs the training while the server is well, dead or slow: `python experiments/reliability/slowdown.py`."""

import os
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from outages import Proxy, served

from gradgrad.tracking import MLflowLogger

TROUBLES: dict[str, dict[str, Any]] = {
    "well": {},
    "dead": {"dead": True},
    "3 s for each answer": {"delay": 3.0},
    "answers 500": {"fails": True},
    "well again": {},
}
STEPS, PAUSE = 600, 0.009  # seconds of a step without its logging


def main() -> None:
    """Print one line for each state of the server; the deliveries go on in their thread meanwhile."""
    with tempfile.TemporaryDirectory() as temporary, served(Path(temporary)) as server:
        os.chdir(temporary)
        proxy = Proxy(server)
        os.environ["MLFLOW_TRACKING_URI"] = proxy.uri
        logger = MLflowLogger("slowdown")
        logger.log_metrics({"train/loss": 1.0}, 0)
        logger.flush()
        for name, trouble in TROUBLES.items():
            proxy.trouble, took = trouble, []
            for step in range(STEPS):
                began = time.perf_counter()
                logger.log_metrics({"train/loss": 1 / (step + 1), "train/penalty": 0.1, "train/gradient_norm": 0.2}, step)
                took.append(time.perf_counter() - began)
                time.sleep(PAUSE)
            print(f"{name:20} mean {1e6 * mean(took):4.0f} us, median {1e6 * median(took):4.0f} us", flush=True)
        proxy.trouble = {}
        logger.finalize()


if __name__ == "__main__":
    main()
