"""Data so small that every step sees all of them."""

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from gradgrad.batches import Batch, DataPart
from gradgrad.datamodules.blocks import Blocks
from gradgrad.datamodules.checked_sizes import CheckedSizes
from gradgrad.errors import UsageError


class FullBatch(CheckedSizes, LightningDataModule, ABC):
    """The same batch at every step, for full-batch descent; a step costs no data work, and no copy on the device.

    Training, validation, test and prediction are all on the same samples: what is studied here is the training loss.
    An epoch is ``steps_per_epoch`` steps, so that validation and checkpoints come once in that many.

    Args:
        steps_per_epoch: optimizer steps between validations, at most ``trainer.max_steps``; 1000 is a guess.

    Raises:
        UsageError: it is below 1.
    """

    name: str
    """Of the data set."""

    def __init__(self, steps_per_epoch: int = 1000) -> None:
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.check_sizes("steps_per_epoch")
        self._moved: dict[Any, Batch] = {}

    @abstractmethod
    def draw(self) -> Batch:
        """Make all samples, the same at every call and on every machine of one kind.

        Returns:
            On the CPU, N samples.
        """

    @cached_property
    def batch(self) -> Batch:
        """All samples, on the CPU."""
        return self.draw()

    def provenance(self) -> list[DataPart]:
        """Tell which samples there are.

        Returns:
            One entry, for all stages see the same.
        """
        content = b"".join(part.contiguous().numpy().tobytes() for part in self.batch)
        return [DataPart(self.name, "training", len(self.batch.x), hashlib.sha256(content).hexdigest()[:32], "generated")]

    def probe_batches(self, which: int | str | None, rank: int, ranks: int) -> list[Batch]:
        """Give the samples on which curvature is measured: all of them.

        Args:
            which: a number of samples, not less than there are; ``train``, ``val`` or None.
            rank: of this process.
            ranks: how many there are.

        Returns:
            This rank's share.

        Raises:
            UsageError: fewer samples are wanted than there are.
        """
        if isinstance(which, int) and which < len(self.batch.x):
            raise UsageError(
                f"{type(self).__name__} trains on all of its {len(self.batch.x)} samples, and a probe of {which} was asked for.\n"
                "write:    probe: train"
            )
        share = Batch(*(part[rank::ranks] for part in self.batch))
        return [share] if len(share.x) else []

    def train_dataloader(self) -> Blocks:
        """Number the steps of an epoch.

        Returns:
            One number per step.
        """
        most = self.trainer.max_steps if self.trainer else -1
        return Blocks(min(self.steps_per_epoch, most) if most > 0 else self.steps_per_epoch)

    def val_dataloader(self) -> Blocks:
        """Validate on the training samples.

        Returns:
            One number.
        """
        return Blocks(1)

    def test_dataloader(self) -> Blocks:
        """Test on the training samples.

        Returns:
            One number.
        """
        return Blocks(1)

    def predict_dataloader(self) -> Blocks:
        """Predict the training samples.

        Returns:
            One number.
        """
        return Blocks(1)

    def transfer_batch_to_device(self, batch: int | Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Give all samples, in the run's precision; they are moved once.

        Args:
            batch: number of the step; or samples that are made already.
            device: where to.
            dataloader_idx: unused, there is one loader.

        Returns:
            The batch on the device.
        """
        if isinstance(batch, Batch):
            return Batch(*(part.to(device) for part in batch))
        if device not in self._moved:
            plugin = self.trainer.precision_plugin if self.trainer else None
            whole = plugin.convert_input(self.batch) if plugin else self.batch
            self._moved[device] = Batch(*(part.to(device) for part in whole))
        return self._moved[device]
