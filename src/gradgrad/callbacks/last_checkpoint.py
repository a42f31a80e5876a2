"""A checkpoint of where the training stands, between two batches and never in one."""

import os
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from gradgrad.callbacks.replayed_loader import ReplayedLoader
from gradgrad.errors import UsageError

PREVIOUS = "previous.ckpt"


class LastCheckpoint(ModelCheckpoint):
    """Save ``last.ckpt`` at the start, by time, at the end and on exceptions; the one before it stays as ``previous.ckpt``.

    It is written where everything before is finished: at the beginning of an epoch, or of a batch that follows neither a
    validation nor a batch whose gradients are still being accumulated. After an exception in the middle of a step it is written
    only if the step has changed nothing yet; otherwise the one before stays.

    Args:
        every_seconds: between two; 10 is a guess at what one does not mind to compute again.
        share: of the time that may go into them, which makes the interval longer where writing is slow; 0.02 is a guess.
        save_on_exception: whether an interrupted training saves once more.

    Raises:
        UsageError: a negative interval, or a share that is none.
    """

    def __init__(self, every_seconds: float = 10.0, share: float = 0.02, save_on_exception: bool = True) -> None:
        if not (every_seconds >= 0 and 0 < share <= 1):
            raise UsageError(
                f"LastCheckpoint got every_seconds {every_seconds}, share {share}; expected 0 or more, and more than 0 up to 1."
            )
        super().__init__(filename="last", every_n_epochs=1, enable_version_counter=False, save_on_exception=save_on_exception)
        self.every_seconds, self.share = every_seconds, share
        self._next = 0.0
        self._validated = self._accumulating = False
        self._begun: tuple[int, int] | None = None  # optimizer steps begun and versions of the buffers, before this batch

    def state_dict(self) -> dict[str, Any]:
        """Keep nothing: other verbs, which have no use for this callback, would be warned that it is missing.

        Returns:
            An empty dict.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing from checkpoints.

        Args:
            state_dict: of another class's callback.
        """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock.

        Args:
            trainer: unused.
            pl_module: unused.
        """
        begins = trainer.global_step == 0  # a training that dies in its first seconds begins with the same random numbers again
        self._next = time.monotonic() + (0.0 if begins else self.every_seconds)
        self._last_global_step_saved = -1 if begins else trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save between two epochs.

        Args:
            trainer: Lightning's.
            pl_module: unused.
        """
        self._accumulating = self._validated = False
        if self._due(trainer):
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember that the next batch follows a validation, which Lightning would repeat.

        Args:
            trainer: unused.
            pl_module: unused.
        """
        self._validated = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Save between two batches.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
            batch: unused.
            batch_idx: unused.
        """
        between = batch_idx > 0 and not self._validated and not self._accumulating
        self._validated = False
        if between and self._due(trainer) and _remembered(trainer):
            self._save(trainer)
        self._begun = _progress(trainer, pl_module) if between else None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """See whether the next batch is one to save before.

        Args:
            trainer: Lightning's.
            pl_module: unused.
            outputs: unused.
            batch: unused.
            batch_idx: unused.
        """
        self._begun = None
        self._accumulating = trainer.fit_loop._should_accumulate()
        loader = trainer.fit_loop._combined_loader
        if isinstance(loader, ReplayedLoader):
            loader.attentive = time.monotonic() >= self._next

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the next epoch: this one is not over.

        Args:
            trainer: unused.
            pl_module: unused.
        """
        self._begun = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the next batch.

        Args:
            trainer: unused.
            pl_module: unused.
        """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save once more.

        Args:
            trainer: Lightning's.
            pl_module: unused.
        """
        if not self._should_skip_saving_checkpoint(trainer):
            self._save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where the interrupted step has changed nothing yet; in one process only, for others may not come here.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
            exception: what interrupts it.
        """
        if not self._should_save_on_exception(trainer) or trainer.world_size > 1 or not trainer.training:
            return
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        untouched = self._begun is not None and self._begun == _progress(trainer, pl_module)
        between = progress.current.ready > 1 and not self._validated and not self._accumulating
        before = between and progress.total.ready > progress.total.started  # in a callback that comes before this one
        after = between and isinstance(exception, SIGTERMException) and progress.total.ready == progress.total.completed
        if ((untouched or before) and _remembered(trainer)) or (after and not progress.is_last_batch):
            for count in (progress.total, progress.current):
                count.started = count.processed
            self._save(trainer)
        elif self.best_model_path:
            rank_zero_info(f"interrupted within a step: last.ckpt is that of step {self._last_global_step_saved}")

    def _due(self, trainer: Trainer) -> bool:
        if self._should_skip_saving_checkpoint(trainer):
            return False
        return bool(trainer.strategy.broadcast(time.monotonic() >= self._next))

    def _save(self, trainer: Trainer) -> None:
        began = time.monotonic()
        file = Path(self.format_checkpoint_name({}))
        if trainer.is_global_zero and file.is_file():
            _keep(file, file.with_name(PREVIOUS))
        self.best_model_path = str(file)
        self._save_checkpoint(trainer, str(file))
        self._next = time.monotonic() + max(self.every_seconds, (time.monotonic() - began) / self.share)


def _remembered(trainer: Trainer) -> bool:
    """Tell whether the random states before the batch at hand are known; without our loader they are not asked for."""
    loader = trainer.fit_loop._combined_loader
    return not isinstance(loader, ReplayedLoader) or loader.before is not None


def _progress(trainer: Trainer, module: LightningModule) -> tuple[int, int]:
    """Count what a step changes first: optimizer steps that have begun, and writes into buffers (batch normalization's)."""
    loop = trainer.fit_loop.epoch_loop
    if module.automatic_optimization:
        begun = loop.automatic_optimization.optim_progress.optimizer.step.total.ready
    else:
        begun = loop.manual_optimization.optim_step_progress.total.ready
    return begun, sum(buffer._version for buffer in module.buffers())


def _keep(file: Path, previous: Path) -> None:
    """Give the file a second name, under which it stays when the first is given to another."""
    previous.unlink(missing_ok=True)
    try:
        os.link(file, previous)
    except OSError:  # a file system without links
        file.replace(previous)
