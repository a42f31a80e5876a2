"""Where trials run: processes of this machine."""

import os
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Protocol

import psutil

from gradgrad.sweeps.fork_server import fork_server, warm_up
from gradgrad.sweeps.trial_process import PATIENCE, run_trial
from gradgrad.trial import Order


class Running(Protocol):
    """A trial that was launched."""

    def done(self) -> bool:
        """Tell whether it has ended, in whatever way; what it has to say is in ``result.json``."""
        ...

    def stop(self) -> None:
        """Ask it to save a checkpoint and end; returns at once."""
        ...


class Launcher(ABC):
    """Runs trials somewhere: a new one is a subclass in a file of its own, named in YAML by its ``class_path``."""

    def open(self, parallel: int) -> None:  # noqa: B027  # most have nothing to do
        """Get ready.

        Args:
            parallel: trials at once.

        Raises:
            UsageError: it cannot.
        """

    @abstractmethod
    def launch(self, order: Order, slot: int) -> Running:
        """Start a trial.

        Args:
            order: which is written into its folder already.
            slot: from 0 to the number of trials at once, exclusive; no two running trials have the same.

        Returns:
            A handle on it.
        """

    def close(self) -> None:  # noqa: B027
        """Give back what :meth:`open` took."""


class TrialProcess:
    """A trial in a process of its own, which leads a process group of its own.

    Args:
        order: what it is to do.
    """

    def __init__(self, order: Order) -> None:
        self.process = fork_server().Process(target=run_trial, args=(order, [*sys.path]))
        with _nothing_to_run_again():
            self.process.start()

    def done(self) -> bool:
        """Tell whether it has ended; if so, nothing of it is left.

        Returns:
            True once it has.
        """
        if self.process.is_alive():
            return False
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)  # ranks and loaders that it left
        return True

    def stop(self) -> None:
        """Ask it to end, and see to it that it does."""
        if self.process.is_alive():
            self.process.terminate()
            threading.Thread(target=self._insist, daemon=True).start()

    def _insist(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.2)
        self.process.kill()


@contextmanager
def _nothing_to_run_again() -> Iterator[None]:
    """Keep multiprocessing from importing this process's main module, a script of Ray's or of the user's, in each trial."""
    main = sys.modules["__main__"]
    spec = main.__spec__
    main.__spec__ = find_spec("gradgrad.__main__")
    try:
        yield
    finally:
        main.__spec__ = spec


class LocalLauncher(Launcher):
    """Processes of this machine, each with its own accelerator where there are several.

    Args:
        threads: that PyTorch computes with in each trial; None shares the processors among them.
        devices: what ``CUDA_VISIBLE_DEVICES`` would name, one for each trial in turn; None means all that this process sees.
    """

    def __init__(self, threads: int | None = None, devices: list[str] | None = None) -> None:
        self.threads, self.devices = threads, devices

    def open(self, parallel: int) -> None:
        """Start the server; count processors and accelerators.

        Args:
            parallel: trials at once.
        """
        warm_up()
        self.threads = self.threads or max(1, processors() // parallel)
        if self.devices is None:
            import torch

            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            count = torch.cuda.device_count()  # asks the driver's library; makes no context
            self.devices = visible.split(",")[:count] if visible else [str(index) for index in range(count)]

    def launch(self, order: Order, slot: int) -> TrialProcess:
        """Start a trial.

        Args:
            order: written already.
            slot: which of the trials at once it is.

        Returns:
            Its process.
        """
        assert self.devices is not None
        environment = {"CUDA_VISIBLE_DEVICES": self.devices[slot % len(self.devices)]} if self.devices else {}
        return TrialProcess(order._replace(threads=self.threads, environment=environment))


def processors() -> int:
    """Count the processors that this process may use.

    Returns:
        At least 1.
    """
    try:
        return len(psutil.Process().cpu_affinity())
    except AttributeError:  # macOS knows no affinity
        return psutil.cpu_count() or 1
