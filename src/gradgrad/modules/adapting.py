"""A module that adapts to tasks and is judged by how it does."""

from copy import copy
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.lr_scheduler import ReduceLROnPlateau

from gradgrad.adaptation import Execution, Learner
from gradgrad.adaptation.evaluation import evaluate
from gradgrad.batches import AdaptedTasks, TaskBatch, TaskShape
from gradgrad.errors import UsageError
from gradgrad.modules.announced import announced
from gradgrad.modules.learnable import check_memory, explained
from gradgrad.modules.task_scores import TaskScores, headline


class AdaptingModule(LightningModule):
    """Validate, test and predict by adapting; how to train is left to the subclass, and so are ``_build`` and ``execution``.

    Args:
        counted: number of inner steps whose scores are the headline.
        curve_steps: number of inner steps up to which evaluation goes.
        diverged_above: a query loss beyond this counts as diverged.
    """

    network: nn.Module
    learner: Learner
    task_shape: TaskShape

    def __init__(self, counted: int, curve_steps: int, diverged_above: float) -> None:
        super().__init__()
        self.counted, self.curve_steps, self.diverged_above = counted, max(curve_steps, counted), diverged_above
        self.scores = TaskScores()
        self.curves: dict[str, tuple[Tensor, Tensor]] = {}

    def configure_model(self) -> None:
        """Build the network for the tasks at hand, unless it stands already.

        Raises:
            UsageError: the datamodule has no ``task_shape``.
        """
        if hasattr(self, "network") or self._trainer is None:  # no trainer: `load_from_checkpoint`, which brings the shape
            return
        lack, remedy = (
            "does not say what its tasks look like",
            "data: gradgrad.datamodules.SinusoidTasks, or give yours that attribute",
        )
        self._build(announced(self, "task_shape", TaskShape, lack, remedy))

    def _build(self, shape: TaskShape) -> None:
        raise NotImplementedError

    @property
    def execution(self) -> Execution:
        """How tasks are computed on this device."""
        raise NotImplementedError

    @property
    def transductive(self) -> bool:
        """Whether the queries of a task are normalized together, so that each answer depends on the other queries."""
        return any(isinstance(layer, _NormBase) and not layer.track_running_stats for layer in self.learner.modules)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what the tasks look like, so that the network can be built without them.

        Args:
            checkpoint: about to be written.
        """
        checkpoint["task_shape"] = tuple(self.task_shape)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network before its weights arrive, also where there is no datamodule to ask.

        Args:
            checkpoint: as Lightning read it.

        Raises:
            UsageError: it was made with other settings.
        """
        if not hasattr(self, "network"):
            inputs, outputs, classification = checkpoint["task_shape"]
            self._build(TaskShape(tuple(inputs), outputs, classification))
        own = self.state_dict()
        for name, saved in checkpoint["state_dict"].items():
            if name in own and own[name].shape != saved.shape:
                raise UsageError(
                    f"the checkpoint has {name} of shape {tuple(saved.shape)}, these settings make {tuple(own[name].shape)}.\n"
                    "write:    the settings that it was trained with (inner_steps, ways, network);\n"
                    "          model.init_args.eval_inner_steps tests more steps than were trained"
                )

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network as it is, before any adaptation.

        Args:
            x: inputs, shape ``(B, ...)``.

        Returns:
            Shape ``(B, outputs)``.
        """
        output: Tensor = self.network(x)
        return output

    def _record(self, metrics: dict[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log_metrics(metrics, step=step)

    def on_validation_start(self) -> None:
        """Refuse a network that remembers other tasks."""
        check_memory(self.learner)

    def on_test_start(self) -> None:
        """Refuse a network that remembers other tasks."""
        check_memory(self.learner)

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> AdaptedTasks:  # type: ignore[override]  # handed on as it is
        """Adapt to validation tasks and judge the outcome.

        Args:
            batch: T tasks.
            batch_idx: unused.

        Returns:
            How it went, for callbacks.
        """
        return self._evaluate(batch)

    def test_step(self, batch: TaskBatch, batch_idx: int) -> AdaptedTasks:  # type: ignore[override]  # handed on as it is
        """Do the same on test tasks.

        Args:
            batch: T tasks.
            batch_idx: unused.

        Returns:
            How it went, for callbacks.
        """
        return self._evaluate(batch)

    def predict_step(self, batch: TaskBatch, batch_idx: int) -> AdaptedTasks:
        """Adapt to a user's own tasks.

        Args:
            batch: T tasks; targets of queries may be unknown.
            batch_idx: unused.

        Returns:
            Outputs before and after, and the adapted parameters.
        """
        with explained(self.execution.mode):
            return evaluate(self.learner, self.learner.meta(), batch, self.execution, self.counted, keep_params=True)

    @property
    def inner_lr(self) -> float | None:
        """The rate of the inner loop; None where rates are learned, one for each tensor or number."""
        optimizer = self.learner.optimizer
        return None if optimizer.rates() else optimizer.lr

    def answer(self, tasks: TaskBatch, inner_steps: int | None = None, inner_lr: float | None = None) -> Tensor:
        """Adapt to tasks and predict, with another inner loop if wanted; nothing in the module changes.

        Args:
            tasks: T of them; targets of queries may be unknown.
            inner_steps: None means as many as the scores count.
            inner_lr: None means the rate that was trained with; without effect where rates are learned.

        Returns:
            Outputs for the query samples after adaptation, shape ``(T, Q, outputs)``.
        """
        learner = self.learner
        if inner_lr is not None:
            optimizer = copy(learner.optimizer)
            optimizer.lr = inner_lr
            learner = replace(learner, optimizer=optimizer)
        steps = self.counted if inner_steps is None else inner_steps
        with explained(self.execution.mode):
            return evaluate(learner, learner.meta(), tasks, self.execution, steps).after

    def _evaluate(self, tasks: TaskBatch) -> AdaptedTasks:
        with explained(self.execution.mode):
            told = evaluate(self.learner, self.learner.meta(), tasks, self.execution, self.curve_steps, self.counted)
        self.scores.update(told.losses, told.accuracies)
        return told

    def on_validation_epoch_end(self) -> None:
        """Log the scores over all validation tasks."""
        metrics = self._conclude("val")
        scheduler = self.lr_schedulers() if self.trainer.training or self.trainer.validating else None
        if isinstance(scheduler, ReduceLROnPlateau) and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            scheduler.step(metrics[getattr(scheduler, "monitor", "val/loss")])  # torch's own names none

    def on_test_epoch_end(self) -> None:
        """Log the scores over all test tasks."""
        self._conclude("test")

    def _conclude(self, stage: str) -> dict[str, float]:
        losses, accuracies = self.scores.compute()
        self.scores.reset()
        self.curves[stage] = (losses.cpu(), accuracies.cpu())
        told = headline(losses, accuracies, self.counted, self.diverged_above) | {"transductive": float(self.transductive)}
        metrics = {f"{stage}/{name}": value for name, value in told.items()}
        # Under Lightning's own log the steps would be training steps; ours are meta-iterations.
        for name, value in metrics.items():  # the same on all ranks; `sync_dist` keeps Lightning from doubting it
            self.log(name, value, logger=False, prog_bar=name == f"{stage}/loss", sync_dist=True)
        if not self.trainer.sanity_checking:
            self._record(metrics, self.global_step)
        return metrics
