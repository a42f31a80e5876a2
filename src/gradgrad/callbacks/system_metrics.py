"""Load of the machine and speed of the training, as MLflow's system metrics."""

from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from gradgrad.callbacks.backward_passes import BackwardPasses
from gradgrad.callbacks.throughput import Throughput
from gradgrad.errors import UsageError
from gradgrad.tracking.logger import MLflowLogger
from gradgrad.tracking.recorder import tracked_logger
from gradgrad.tracking.system import PREFIX, Machine, OtherNode


class _Watch(NamedTuple):
    machine: Machine
    throughput: Throughput
    passes: BackwardPasses
    log: MLflowLogger | OtherNode


class SystemMetrics(Callback):
    """Log how busy the machine is and how fast the training goes, every some seconds and at its end.

    Logged, by step: MLflow's system metrics, in the units of their names (``system/cpu_utilization_percentage``,
    ``system/system_memory_usage_megabytes``, ``system/gpu_0_utilization_percentage``, ...; with several machines
    ``system/node_0/...`` and so on, each by its own process); over all processes ``system/samples_per_second``, for task batches
    ``system/tasks_per_second``, and ``system/steps_per_second`` (optimizer steps), without validations;
    ``system/backward_passes_per_step``, where they can be counted (see
    :class:`gradgrad.callbacks.backward_passes.BackwardPasses`). These, and no others, differ between equal runs.
    GPUs need ``nvidia-ml-py`` (``pip install "gradgrad[gpu]"``). ``gradgrad fit`` has this callback by itself.

    Args:
        every_seconds: between two readings; 10 is MLflow's own. None reads nothing.

    Raises:
        UsageError: no positive number.
    """

    def __init__(self, every_seconds: float | None = 10.0) -> None:
        if every_seconds is not None and not every_seconds > 0:
            raise UsageError(
                f"SystemMetrics got every_seconds {every_seconds}; expected a positive number of seconds, or null for none."
            )
        self.every_seconds = every_seconds
        self._watch: _Watch | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count, in one process of each machine.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
        """
        logger = tracked_logger(trainer.loggers)
        if self.every_seconds is None or logger is None:
            return
        node, run_id = None, None
        if trainer.num_nodes > 1:
            node, run_id = trainer.node_rank, trainer.strategy.broadcast(logger.run_id)
        if trainer.local_rank:
            return
        machine = Machine(node)
        log = logger if trainer.is_global_zero else OtherNode(str(run_id), trainer.node_rank)
        self._watch = _Watch(machine, Throughput(trainer.world_size, trainer.global_step), BackwardPasses(pl_module), log)
        self._watch.passes.start(trainer.global_step)
        if pl_module.device.type == "cuda" and not machine.sees_gpus:
            rank_zero_info('system metrics leave out the GPU; write: pip install "gradgrad[gpu]"')

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count; log when it is time.

        Args:
            trainer: Lightning's.
            pl_module: unused.
            outputs: unused.
            batch: just trained on.
            batch_idx: unused.
        """
        if self._watch is None or self.every_seconds is None:
            return
        _, throughput, passes, _ = self._watch
        throughput.saw(batch)
        stepped = passes.after_batch(trainer.global_step)
        if stepped and throughput.seconds >= self.every_seconds:
            self._report(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock.

        Args:
            trainer: unused.
            pl_module: unused.
        """
        if self._watch is not None:
            self._watch.throughput.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock run again.

        Args:
            trainer: unused.
            pl_module: unused.
        """
        if self._watch is not None:
            self._watch.throughput.go_on()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last part, unless it is short and not the only one.

        Args:
            trainer: Lightning's.
            pl_module: unused.
        """
        watch = self._watch
        if watch is not None and self.every_seconds is not None and watch.throughput.step != trainer.global_step:
            enough = watch.throughput.seconds >= self.every_seconds / 2  # the last value is what tables of runs show
            if enough or not watch.throughput.reported:
                self._report(trainer)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Count no more.

        Args:
            trainer: unused.
            pl_module: unused.
            exception: unused.
        """
        self._stop()

    def _stop(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.passes.stop()
            if isinstance(watch.log, OtherNode):
                watch.log.close()

    def _report(self, trainer: Trainer) -> None:
        if self._watch is None:
            return
        machine, throughput, passes, log = self._watch
        speed, mean = throughput.report(trainer.global_step), passes.per_step()
        if mean is not None:
            speed["backward_passes_per_step"] = mean
        of_all = {f"{PREFIX}{name}": value for name, value in speed.items()} if trainer.is_global_zero else {}
        log.log_metrics({**machine.read(), **of_all}, trainer.global_step)
