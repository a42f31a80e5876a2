"""How busy a machine is, by MLflow's own monitors."""

import os
import time
from contextlib import suppress
from typing import Any

from gradgrad.tracking.delivery import Delivery
from gradgrad.tracking.spool import Spool, spool_folder
from gradgrad.tracking.store import open_store, tracking_uri

PREFIX = "system/"  # what MLflow's UI shows under `System metrics`


class Machine:
    """What MLflow's monitors say of this machine: CPU, memory, disk, network, and GPUs where there are any.

    They are read when asked, and the logger stores what they say. MLflow's own thread, ``SystemMetricsMonitor``, asks the server
    for the run before each reading, ends for good when there is no answer, and lets the end of the run wait for its retries.

    Args:
        node: number of the machine, where there are several; it becomes a part of the names, as in MLflow.
    """

    def __init__(self, node: int | None = None) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self.prefix = PREFIX if node is None else f"{PREFIX}node_{node}/"
        kinds: list[Any] = [CPUMonitor, DiskMonitor, NetworkMonitor]  # of MLflow, which ships no types
        gpus = _gpu_monitor()
        self.sees_gpus = gpus is not None
        self._monitors = [kind() for kind in kinds] + ([gpus] if self.sees_gpus else [])
        self.read()  # the CPU's use is counted from one reading to the next

    def read(self) -> dict[str, float]:
        """Read the monitors.

        Returns:
            By name: ``system/cpu_utilization_percentage`` (since the last reading), ``system/system_memory_usage_megabytes`` and
            the like; units stand in MLflow's names.
        """
        said: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            said.update({f"{self.prefix}{name}": float(value) for name, value in monitor.aggregate_metrics().items()})
            monitor.clear_metrics()
        return said


def _gpu_monitor() -> Any:
    """MLflow's for NVIDIA, else for AMD; each refuses, in its own way, where its library or a device is lacking."""
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    kinds: list[Any] = [GPUMonitor, ROCMMonitor]
    for kind in kinds:
        with suppress(Exception):
            return kind()
    return None


class OtherNode:
    """Where a process that has no logger, on another machine than rank zero, writes its metrics into the run.

    Args:
        run_id: MLflow's.
        node: number of the machine.
    """

    def __init__(self, run_id: str, node: int) -> None:
        self.spool = Spool(spool_folder() / f"{run_id}.node_{node}.{os.getpid()}.db")
        self.delivery = Delivery(open_store(tracking_uri()), self.spool, 5.0)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Record metrics.

        Args:
            metrics: by name.
            step: optimizer steps done so far.
        """
        now = int(time.time() * 1000)
        self.spool.put("metrics", [(name, value, now, step) for name, value in metrics.items()])

    def close(self) -> None:
        """Deliver what waits, if the server answers, and end."""
        self.delivery.drain()
        self.delivery.stop()
        self.spool.close()
