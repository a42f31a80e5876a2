"""Where trials run: a Ray cluster, or a Ray of this process's own."""

import math
import os
import re
import socket
import time
from typing import Any

from gradgrad.errors import UsageError
from gradgrad.sweeps.launchers import Launcher, TrialProcess
from gradgrad.trial import Order

PASSED_ON = ("MLFLOW_", "GRADGRAD_", "OMP_", "MKL_")  # beginnings of variables that a trial needs wherever it runs
DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")  # set by Ray


class RayTrial:
    """A trial that is a task of Ray's.

    Args:
        task: Ray's reference to what it gives back.
    """

    def __init__(self, task: Any) -> None:
        self.task = task

    def done(self) -> bool:
        """Tell whether it has ended, by itself or with its node.

        Returns:
            True once it has.

        Raises:
            UsageError: the node that this process is connected to is gone, and all that follows would fail.
        """
        import ray

        if not ray.wait([self.task], timeout=0)[0]:
            return False
        try:
            ray.get(self.task)
        except (ray.exceptions.LocalRayletDiedError, ray.exceptions.RaySystemError) as error:
            raise UsageError(
                "launcher ray: Ray is gone. What was finished is kept, and what ran has a checkpoint.\n"
                "write:    the same command, which goes on"
            ) from error
        except ray.exceptions.RayError:  # of another node, or a task that was cancelled: the sweep looks at what it has left
            pass
        return True

    def stop(self) -> None:
        """Ask it to end."""
        import ray

        ray.cancel(self.task, force=False)


class RayLauncher(Launcher):
    """Tasks of Ray; a cluster's nodes must share the folder of the sweep, and have this project installed.

    Args:
        address: of a cluster (``auto``, ``ray://...``); None starts a Ray that ends with this process.
        cpus: of a trial.
        gpus: of a trial; Ray gives each its own.
        threads: that PyTorch computes with in each trial; None means as many as cpus.
    """

    def __init__(self, address: str | None = None, cpus: float = 1, gpus: float = 0, threads: int | None = None) -> None:
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self.threads = threads or max(1, int(cpus))
        self._run: Any = None

    def open(self, parallel: int) -> None:
        """Connect, or start.

        Args:
            parallel: trials at once.

        Raises:
            UsageError: Ray is not installed, or no cluster is at the address.
        """
        try:
            import ray
        except ImportError as error:
            raise UsageError(
                "launcher ray: Ray is not installed.\nexpected: launcher: local, which needs nothing\n"
                "write:    pip install 'gradgrad[ray]'"
            ) from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.address is None:
                cpus = math.ceil(parallel * self.cpus)
                ray.init(num_cpus=cpus, num_gpus=math.ceil(parallel * self.gpus) or None, include_dashboard=False, **quiet)
            else:
                _knock(self.address)
                ray.init(address=self.address, **quiet)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            where = "no Ray can be started" if self.address is None else f"no Ray at {self.address}"
            raise UsageError(f"launcher ray: {where}: {reason}\nwrite:    the address of a cluster, or none") from error
        # A task that dies is the sweep's to start again, from its last checkpoint.
        self._run = ray.remote(max_retries=0, num_cpus=self.cpus, num_gpus=self.gpus)(_run)

    def launch(self, order: Order, slot: int) -> RayTrial:
        """Start a trial.

        Args:
            order: written already.
            slot: unused; Ray knows what is free.

        Returns:
            Its task.
        """
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        return RayTrial(self._run.remote(order._replace(threads=self.threads, environment=passed)._asdict()))

    def close(self) -> None:
        """Leave the cluster, or end one's own."""
        import ray

        ray.shutdown()


def _knock(address: str) -> None:
    """Ask whether anyone is there: Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?([\w.-]+):(\d+)", address)
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()


def _run(order: dict[str, Any]) -> None:
    """Be the task: a worker of Ray's that forks the trial off and waits, so that imports are paid once for each worker."""
    own = {name: os.environ[name] for name in DEVICES if name in os.environ}
    trial = TrialProcess(Order(**{**order, "environment": {**order["environment"], **own}}))
    try:
        while not trial.done():
            time.sleep(0.05)
    except KeyboardInterrupt:  # ray.cancel
        trial.stop()
        while not trial.done():
            time.sleep(0.05)
