"""A training that is one trial of a sweep: it reports what is searched for, and stops when it is told to."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer

from gradgrad.errors import nearest, some
from gradgrad.tracking.logger import MLflowLogger
from gradgrad.tracking.recorder import tracked_logger
from gradgrad.written_whole import write_whole

VARIABLE = "GRADGRAD_TRIAL"  # folder of the trial that this process, and those that it starts, work on
PRUNE = "prune"  # a file: the sweep wants the training to stop


class Order(NamedTuple):
    """What a trial is to do.

    Attributes:
        folder: of the trial.
        cwd: where the sweep was started.
        arguments: what follows ``gradgrad fit``.
        metric: as it is logged.
        direction: ``minimize`` or ``maximize``.
        at: ``best`` or ``last``.
        tags: of its run.
        name: of its run, unless the config has one.
        threads: that PyTorch computes with.
        environment: variables for it alone.
    """

    folder: str
    cwd: str
    arguments: list[str]
    metric: str
    direction: str
    at: str
    tags: dict[str, str]
    name: str = ""
    threads: int | None = None
    environment: dict[str, str] = {}  # noqa: RUF012  # never changed

    def save(self) -> None:
        """Write it into its folder."""
        write_whole(Path(self.folder) / "order.json", json.dumps(self._asdict(), indent=1))

    @classmethod
    def of(cls, folder: Path) -> "Order":
        """Read it.

        Args:
            folder: of the trial.

        Returns:
            The order.
        """
        return cls(**json.loads((folder / "order.json").read_text()))


class Report(Callback):
    """Note each value of the objective as it is logged; stop the training when the sweep has asked for it.

    Args:
        order: of the trial.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self.folder = Path(order.folder)
        self.values = read_values(self.folder)
        self.logged: set[str] = set()
        self.pruned = False

    @classmethod
    def of_environment(cls) -> "Report | None":
        """Find out whether this process works on a trial.

        Returns:
            None where it does not.
        """
        folder = os.environ.get(VARIABLE)
        return cls(Order.of(Path(folder))) if folder else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which run it is.

        Args:
            trainer: Lightning's.
            pl_module: unused.
        """
        logger = tracked_logger(trainer.loggers)
        if trainer.is_global_zero and logger is not None:
            write_whole(self.folder / "run_id", str(logger.run_id))

    def attach(self, logger: MLflowLogger) -> None:
        """Listen to a logger, and let its run say which trial it is; called before the run has a name by default.

        Args:
            logger: of the trainer; only rank zero's ever says anything.
        """
        logger.run.tags.update(self.order.tags)
        logger.run.run_name = logger.run.run_name or self.order.name or None
        logger.listeners.append(self.hear)

    def hear(self, metrics: Mapping[str, float], step: int) -> None:
        """Note the objective.

        Args:
            metrics: as they are logged.
            step: optimizer steps done so far.
        """
        self.logged.update(metrics)
        value = metrics.get(self.order.metric)
        if value is not None and self.values.get(step) != value:
            self.values[step] = value
            with (self.folder / "values.jsonl").open("a") as file:
                file.write(json.dumps([step, value]) + "\n")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether to stop.

        Args:
            trainer: Lightning's.
            pl_module: unused.
        """
        if not trainer.sanity_checking:
            self._obey(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether to stop.

        Args:
            trainer: Lightning's.
            pl_module: unused.
        """
        self._obey(trainer)

    def _obey(self, trainer: Trainer) -> None:
        if trainer.state.fn == "fit" and trainer.strategy.broadcast((self.folder / PRUNE).exists()):
            self.pruned = trainer.should_stop = True

    @property
    def objective(self) -> tuple[int, float] | None:
        """Step and value that count; None where nothing was logged."""
        return chosen(self.values, self.order.direction, self.order.at)

    def missing(self) -> str:
        """Say that the objective was never logged.

        Returns:
            A sentence with the nearest of the metrics that were.
        """
        near = nearest(self.order.metric, self.logged)
        said = f"metric {self.order.metric} was never logged; logged were {some(sorted(self.logged), 8) or 'none'}"
        return f"{said}\nwrite:    objective: {{metric: {near}}}, and --new" if near else said


def read_values(folder: Path) -> dict[int, float]:
    """Read what a trial has reported.

    Args:
        folder: of the trial.

    Returns:
        Value by step, in the order of steps; a half-written line counts for nothing.
    """
    values: dict[int, float] = {}
    file = folder / "values.jsonl"
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            step, value = json.loads(line)
        except ValueError:
            continue
        values[step] = value
    return dict(sorted(values.items()))


def chosen(values: Mapping[int, float], direction: str, at: str) -> tuple[int, float] | None:
    """Take the value that counts.

    Args:
        values: by step.
        direction: ``minimize`` or ``maximize``.
        at: ``best`` or ``last``; where the last is not finite, there is no best.

    Returns:
        Step and value; None where there is none.
    """
    if not values:
        return None
    last = max(values)
    if at == "last" or not math.isfinite(values[last]):
        return last, values[last]
    finite = {step: value for step, value in values.items() if math.isfinite(value)}
    sign = 1 if direction == "minimize" else -1
    step = min(finite, key=lambda step: sign * finite[step])
    return step, finite[step]


def result(status: str, report: Report | None = None, **more: Any) -> dict[str, Any]:
    """Write down how a trial ended.

    Args:
        status: ``finished``, ``pruned``, ``failed`` or ``interrupted``.
        report: which has heard the objective.
        more: ``reason``, ``run_id``, ``seconds``.

    Returns:
        What ``result.json`` holds.
    """
    step, value = (report and report.objective) or (None, None)
    return {"status": status, "value": value, "step": step, "run_id": None, "reason": "", **more}
