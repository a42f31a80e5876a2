"""One point with one seed, and its process."""

import time
from typing import Any, NamedTuple

from optuna.trial import Trial

from gradgrad.sweeps.launchers import Running
from gradgrad.sweeps.trial_folder import TrialFolder


class Job(NamedTuple):
    """One point with one seed.

    Attributes:
        point: Optuna's trial.
        settings: of the point.
        seed: of the training.
        number: of the trial.
        folder: of the trial.
    """

    point: Trial
    settings: dict[str, Any]
    seed: int
    number: int
    folder: TrialFolder


class Flight:
    """A job that is being run.

    Args:
        job: to run.
        slot: which of those at once.
        running: the launcher's handle.
    """

    def __init__(self, job: Job, slot: int, running: Running) -> None:
        self.job, self.slot, self.running = job, slot, running
        self.began = time.monotonic()
        self.reported = 0
        self.overdue = False

    @property
    def seconds(self) -> float:
        """Since it was started; the wall clock may jump, this one does not."""
        return time.monotonic() - self.began
