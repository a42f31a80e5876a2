"""What Lightning leaves out of its checkpoints, so that a resumed training is the uninterrupted one."""

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed

from gradgrad.callbacks.epoch_metrics import epoch_metrics, restore_epoch_metrics
from gradgrad.callbacks.random_states import random_states, restore_random_states
from gradgrad.callbacks.replayed_loader import ReplayedLoader, ReplayedSource

KEY = "gradgrad.resumable"


class Resumable(Callback):
    """Write into every checkpoint the random states, the loader's position and the sums of the epoch; restore them.

    A checkpoint between two batches, or between two epochs, is resumed bit for bit:
    :class:`gradgrad.callbacks.LastCheckpoint` saves nowhere else. The command line adds this callback to each fit. What it cannot
    see: gradients that a module with manual optimization keeps from one step for the next, iterable data whose order depends on
    random numbers drawn while training, and attributes that a module sets at the beginning of an epoch and does not save.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand between the loop and its loader.

        Args:
            trainer: Lightning's.
            pl_module: unused.
            stage: Lightning's.
        """
        if stage == "fit":
            source = trainer.fit_loop._data_source
            if not isinstance(source, ReplayedSource):
                source = ReplayedSource(source.instance, source.name)
                trainer.fit_loop._data_source = source
            source.trainer = trainer
            self._restored = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state of all ranks, and count only what is finished.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
            checkpoint: about to be written.
        """
        at = settle(checkpoint["loops"]["fit_loop"])
        loader = trainer.fit_loop._combined_loader
        position = loader.position(at == "batch") if isinstance(loader, ReplayedLoader) else None
        mine = {
            "position": position,
            "random": random_states(trainer.strategy.root_device),
            "metrics": epoch_metrics(trainer, pl_module),
            "accumulate": trainer.accumulate_grad_batches,
        }
        ranks: list[Any] = [mine]
        if trainer.world_size > 1 and distributed.is_initialized():
            ranks = [None] * trainer.world_size
            distributed.all_gather_object(ranks, mine)
        checkpoint[KEY] = {"at": at, "ranks": ranks}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take what is this rank's.

        Args:
            trainer: Lightning's.
            pl_module: unused.
            checkpoint: as it was read.
        """
        saved = checkpoint.get(KEY)
        if saved is None or len(saved["ranks"]) != trainer.world_size or trainer.state.fn != "fit":
            return
        mine = saved["ranks"][trainer.global_rank]
        self._restored = {"at": saved["at"], **mine}
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"]
        if saved["at"] != "epoch" and mine["position"] is not None:
            source = trainer.fit_loop._data_source
            assert isinstance(source, ReplayedSource)
            source.back_to = (mine["position"], batches)
            warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the sums; begin a new epoch where the last one was over.

        Args:
            trainer: Lightning's.
            pl_module: anyone's.
        """
        back = self._restored
        if back is None:
            return
        loop = trainer.fit_loop
        trainer.accumulate_grad_batches = back["accumulate"]
        restore_epoch_metrics(back["metrics"], trainer, pl_module, mid_epoch=back["at"] != "epoch")
        if back["at"] == "epoch":  # Lightning would count the finished epoch once more
            loop.epoch_loop.restarting = False
            loop._resuming_from_checkpoint = False
        elif back["at"] == "within":
            restore_random_states(back["random"], trainer.strategy.root_device)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random states where the epoch is a new one; this callback comes after all others.

        Args:
            trainer: Lightning's.
            pl_module: unused.
        """
        if self._restored is not None and self._restored["at"] == "epoch":
            restore_random_states(self._restored["random"], trainer.strategy.root_device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """End the restart: Lightning would leave ``ReduceLROnPlateau`` out at the end of a resumed epoch, and reset its sums.

        Args:
            trainer: Lightning's.
            pl_module: unused.
            batch: unused.
            batch_idx: unused.
        """
        if self._restored is not None:
            trainer.fit_loop.restarting = False
            if self._restored["at"] != "epoch":
                trainer._logger_connector._first_loop_iter = False
            self._restored = None


def settle(loop: dict[str, Any]) -> str:
    """Take back, in a checkpoint's counters, what was about to begin when it was saved.

    Args:
        loop: state of the fit loop; changed where it says that something has begun.

    Returns:
        ``epoch`` between two epochs, ``batch`` between two batches, ``within`` elsewhere, where Lightning's own rules hold.
    """
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    if epochs["total"]["ready"] > epochs["total"]["started"]:
        for count in (epochs["total"], epochs["current"]):
            count["ready"] = count["started"]
        return "epoch"
    if len({*epochs["total"].values()}) == 1:
        return "epoch"
    if batches["total"]["ready"] > batches["total"]["started"]:
        for count in (batches["total"], batches["current"]):
            count["ready"] = count["started"]
        batches["is_last_batch"] = False
        return "batch"
    return "within"
