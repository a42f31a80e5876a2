"""A network, a loss and an optimizer, and nothing else."""

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from gradgrad.batches import Batch, Prediction
from gradgrad.modules.hyperparameters import keep_hyperparameters
from gradgrad.modules.optimization import optimization


class PlainLearner(LightningModule):
    r"""Minimize the mean loss :math:`L(\theta)` of any network over the batches as they come: no standardization, no penalty.

    Logged: ``train/loss`` by step; ``val/loss`` and ``test/loss`` by epoch, and where targets are class numbers ``val/accuracy``
    and ``test/accuracy``, shares between 0 and 1. A loss has the unit of ``loss``.

    Args:
        network: maps inputs to what ``loss`` takes.
        loss: maps outputs and targets to their mean loss, for example ``torch.nn.CrossEntropyLoss`` or
            ``gradgrad.modules.HalfSquaredError``.
        optimizer: called with the parameters. SGD at 0.01 is a guess: it has no good value for all networks.
        scheduler: called with the optimizer, stepped once per epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: nn.Module,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.01),
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        keep_hyperparameters(self)
        self.network = network
        self.criterion = loss
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            x: inputs, shape ``(B, ...)``.

        Returns:
            Its outputs.
        """
        output: Tensor = self.network(x)
        return output

    def loss(self, batch: Batch) -> Tensor:
        """Evaluate the mean loss.

        Args:
            batch: inputs and targets.

        Returns:
            Scalar.
        """
        x, y = batch
        loss: Tensor = self.criterion(self(x), y)
        return loss

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Log the loss, at the steps that the trainer's logger wants.

        Args:
            batch: inputs and targets.
            batch_idx: unused.

        Returns:
            The scalar to minimize.
        """
        loss = self.loss(batch)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a function of the connector
        if every and (self.global_step + 1) % every == 0:  # Lightning would ask no others, and half of a small step is logging
            self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss, and the accuracy of a classifier.

        Args:
            batch: inputs and targets.
            batch_idx: unused.
        """
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction:  # type: ignore[override]  # Lightning hands it on as it is
        """Do the same on the test part.

        Args:
            batch: inputs and targets.
            batch_idx: unused.

        Returns:
            What was predicted and what was true, for callbacks.
        """
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> Prediction:
        x, y = batch
        output = self(x)
        self.log(f"{stage}/loss", self.criterion(output, y), batch_size=len(y), prog_bar=stage == "val")
        if not y.is_floating_point():
            self.log(f"{stage}/accuracy", (output.argmax(1) == y).float().mean(), batch_size=len(y))
        return Prediction(output, y)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Predict a batch.

        Args:
            batch: inputs and targets.
            batch_idx: unused.

        Returns:
            The network's outputs and what was true.
        """
        x, y = batch
        return Prediction(self(x), y)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer and the scheduler that the config names.

        Returns:
            As Lightning takes them.
        """
        return optimization(self.make_optimizer, self.make_scheduler, self.parameters())
