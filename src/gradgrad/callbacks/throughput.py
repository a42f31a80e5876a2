"""How fast a training goes."""

import time
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from gradgrad.batches import TaskBatch


class Throughput:
    """Count samples or tasks, and the time that the training took, since the last report.

    Time is the clock's up to the last batch, with waiting for data and with callbacks, without validations. A sample is a row of
    the batch's first tensor. Nothing waits for the accelerator: over a report's seconds it is never more than some steps behind.

    Args:
        processes: that take an equal share each.
        step: optimizer steps done so far.
    """

    def __init__(self, processes: int, step: int) -> None:
        self.processes, self.step, self.reported = processes, step, False
        self._samples = self._tasks = 0
        self._since = self._latest = time.monotonic()
        self._paused: float | None = None

    @property
    def seconds(self) -> float:
        """Of training since the last report."""
        return self._latest - self._since

    def pause(self) -> None:
        """Stop the clock."""
        self._paused = time.monotonic()

    def go_on(self) -> None:
        """Let the clock run again."""
        if self._paused is not None:
            away = time.monotonic() - self._paused
            self._since, self._latest = self._since + away, self._latest + away
            self._paused = None

    def saw(self, batch: Any) -> None:
        """Count a batch.

        Args:
            batch: of samples, a :class:`gradgrad.batches.TaskBatch`, or a list of those.
        """
        self._latest = time.monotonic()
        for part in batch if type(batch) is list and batch and isinstance(batch[0], TaskBatch) else [batch]:
            if isinstance(part, TaskBatch):
                self._tasks += len(part.support_x)
            else:
                self._samples += next((len(leaf) for leaf in tree_leaves(part) if isinstance(leaf, Tensor) and leaf.dim()), 0)

    def report(self, step: int) -> dict[str, float]:
        """Give the rates since the last report.

        Args:
            step: optimizer steps done so far.

        Returns:
            ``steps_per_second``, and ``samples_per_second`` or ``tasks_per_second`` over all processes.
        """
        seconds = max(self.seconds, 1e-9)
        counts = {"samples": self._samples * self.processes, "tasks": self._tasks * self.processes, "steps": step - self.step}
        self._since = self._latest
        self._samples, self._tasks, self.step, self.reported = 0, 0, step, True
        return {f"{name}_per_second": count / seconds for name, count in counts.items() if count}
