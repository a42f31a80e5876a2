"""Regression whose loss may be penalized for the norm of its own gradient."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score

from gradgrad.batches import Batch, Prediction, Statistics
from gradgrad.modules.announced import announced
from gradgrad.modules.hyperparameters import keep_hyperparameters
from gradgrad.modules.optimization import optimization
from gradgrad.modules.supervised import Supervised
from gradgrad.penalties import Penalty, penalize
from gradgrad.standardize import Standardize

NetworkCallable = Callable[[int, int], nn.Module]


class GradientNormRegressor(LightningModule):
    r"""Fit :math:`y \approx f_\theta(x)` by :math:`\min_\theta L(\theta) + \sum_i P_i(\theta)`.

    Inputs and targets are standardized inside the module, by the statistics of the training part, so that a checkpoint takes
    and gives numbers in their own units. Any datamodule that has ``statistics`` (:class:`gradgrad.batches.Statistics`) serves.

    Logged, by step: ``train/loss`` (unpenalized), ``train/gradient_norm`` (of the unpenalized loss's gradient as the
    penalty measures it, else the Euclidean norm of the gradient of all that is minimized; under gradient accumulation that of a
    micro-batch with a penalty, of the accumulated gradient without one), ``train/input_gradient_norm`` with an input penalty,
    ``train/penalty`` (their sum); of several penalties of one kind each norm has its place in the list as a suffix;
    by epoch: ``val/loss`` and ``test/loss`` (unpenalized), with ``rmse`` and ``mae`` in the target's unit and ``r2`` without.
    A loss has the unit of the criterion on standardized targets: none for MSE and Huber, nats for the Gaussian likelihood.

    Args:
        network: called with the number of features and of outputs, for example ``gradgrad.networks.MLP``.
        penalties: terms added to the training loss, and only to it: ``gradgrad.penalties`` or own subclasses of ``Penalty``.
            Their ``parameters`` choose among ``network.layers.0.weight`` and the like.
        loss: ``torch.nn.MSELoss``, ``HuberLoss`` or ``GaussianNLLLoss``; with the last the network has two outputs, the mean
            and the logarithm of the variance.
        optimizer: called with the parameters. The default rate of 0.01 is the pilot's on small tables.
        scheduler: called with the optimizer, stepped once per epoch.
    """

    network: nn.Module
    standardize_x: Standardize
    standardize_y: Standardize

    def __init__(
        self,
        network: NetworkCallable,
        penalties: Sequence[Penalty] = (),
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=0.01),
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        keep_hyperparameters(self)
        self.make_network = network
        self.penalties = nn.ModuleList(penalties)
        self.criterion = nn.MSELoss() if loss is None else loss
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        metrics = MetricCollection({"rmse": MeanSquaredError(squared=False), "mae": MeanAbsoluteError(), "r2": R2Score()})
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    @property
    def probabilistic(self) -> bool:
        """Whether the network says a variance too."""
        return isinstance(self.criterion, nn.GaussianNLLLoss)

    def configure_model(self) -> None:
        """Build the network for the data at hand, unless it stands already.

        Raises:
            UsageError: the datamodule has no ``statistics``.
        """
        if hasattr(self, "network") or self._trainer is None:  # no trainer: `load_from_checkpoint`, which brings the shapes
            return
        lack = "has no statistics of its training part"
        remedy = "data: gradgrad.datamodules.TabularRegression, or give yours that attribute in setup()"
        statistics = announced(self, "statistics", Statistics, lack, remedy)
        self._build(Standardize(statistics.x_mean, statistics.x_std), Standardize(statistics.y_mean, statistics.y_std))

    def _build(self, standardize_x: Standardize, standardize_y: Standardize) -> None:
        self.standardize_x, self.standardize_y = standardize_x, standardize_y
        outputs = len(standardize_y.mean) * (2 if self.probabilistic else 1)
        self.network = self.make_network(len(standardize_x.mean), outputs)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network before its weights arrive, also where there is no datamodule to ask.

        Args:
            checkpoint: as Lightning read it.
        """
        if not hasattr(self, "network"):
            state = checkpoint["state_dict"]
            self._build(*(Standardize.placeholder(len(state[f"standardize_{part}.mean"])) for part in "xy"))

    def forward(self, x: Tensor) -> Tensor:
        """Predict.

        Args:
            x: inputs in their own units, shape ``(B, F)``.

        Returns:
            Predictions (the mean, where the network says a variance too) in the target's unit, shape ``(B, 1)``.
        """
        return self._in_target_unit(self._output(x))

    def loss(self, batch: Batch) -> Tensor:
        """Evaluate the unpenalized loss.

        Args:
            batch: samples in their own units.

        Returns:
            Scalar, in units of the criterion on standardized targets.
        """
        return self._standardized().loss(self._standardize(batch))

    def _standardized(self) -> Supervised:
        return Supervised(self.network, self.criterion)

    def _standardize(self, batch: Batch) -> Batch:
        return Batch(self.standardize_x(batch.x), self.standardize_y(batch.y))

    def _output(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(self.standardize_x(x))
        return output

    def _in_target_unit(self, output: Tensor) -> Tensor:
        mean = output.chunk(2, dim=-1)[0] if self.probabilistic else output
        return self.standardize_y.inverse(mean)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add the penalties to the loss. They see standardized inputs and outputs, so that their weights have no unit.

        Args:
            batch: samples in their own units.
            batch_idx: unused.

        Returns:
            The scalar to minimize.
        """
        penalized = penalize(self._standardized(), self._standardize(batch), self.penalties, self.global_step)
        self.log("train/loss", penalized.loss, prog_bar=True)
        if penalized.norms:
            self.log("train/penalty", penalized.penalty)
            self.log_dict({f"train/{name}": norm for name, norm in penalized.norms.items()})
        return penalized.total

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the gradient's norm where no penalty has computed it: here the gradient is unscaled and not yet clipped.

        Args:
            optimizer: unused.
        """
        active = [p for p in self.penalties if isinstance(p, Penalty) and p.weight_at(self.global_step) > 0]
        if not any(p.norm_name == "gradient_norm" for p in active):
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("train/gradient_norm", torch.nn.utils.get_total_norm(gradients))
        if not active:
            self.log("train/penalty", 0.0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the unpenalized loss and the metrics in the target's unit.

        Args:
            batch: samples in their own units.
            batch_idx: unused.
        """
        self._evaluate("val", self.val_metrics, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Prediction:  # type: ignore[override]  # Lightning hands it on as it is
        """Do the same on the test part.

        Args:
            batch: samples in their own units.
            batch_idx: unused.

        Returns:
            What was predicted and what was true, for callbacks.
        """
        return self._evaluate("test", self.test_metrics, batch)

    def _evaluate(self, stage: str, metrics: MetricCollection, batch: Batch) -> Prediction:
        output = self._output(batch.x)
        prediction = self._in_target_unit(output)
        metrics.update(prediction.squeeze(-1), batch.y.squeeze(-1))
        loss = self._standardized().of(output, self.standardize_y(batch.y))
        self.log(f"{stage}/loss", loss, batch_size=len(batch.y), prog_bar=stage == "val")
        self.log_dict(metrics, batch_size=len(batch.y))
        return Prediction(prediction, batch.y)

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Predict a batch of the datamodule's ``predict`` part.

        Args:
            batch: samples in their own units.
            batch_idx: unused.

        Returns:
            What was predicted and what was true.
        """
        return Prediction(self(batch.x), batch.y)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimizer and the scheduler that the config names.

        Returns:
            As Lightning takes them.
        """
        return optimization(self.make_optimizer, self.make_scheduler, self.parameters())
