"""Predicted against true values: a figure after a test, a table after a prediction."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from gradgrad.batches import Prediction
from gradgrad.tracking.recorder import tracked_logger


class Predictions(Callback):
    """Show what a regressor predicted.

    After ``test`` the run gets the figure ``predictions.png``, after ``predict`` the table ``predictions.csv``. It looks at steps
    that return a :class:`gradgrad.batches.Prediction`; with any other module it does nothing.
    """

    def __init__(self) -> None:
        self._seen: list[Prediction] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier stage.

        Args:
            trainer: unused.
            pl_module: unused.
        """
        self._seen = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier stage.

        Args:
            trainer: unused.
            pl_module: unused.
        """
        self._seen = []

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """Collect a batch.

        Args:
            trainer: unused.
            pl_module: unused.
            outputs: of the step.
            args: unused.
        """
        self._collect(outputs)

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """Collect a batch.

        Args:
            trainer: unused.
            pl_module: unused.
            outputs: of the step.
            args: unused.
        """
        self._collect(outputs)

    def _collect(self, outputs: Any) -> None:
        if isinstance(outputs, Prediction):
            self._seen.append(Prediction(*(part.detach().float().cpu() for part in outputs)))

    def _all(self) -> Prediction:
        return Prediction(*(torch.cat(parts).flatten() for parts in zip(*self._seen, strict=True)))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figure.

        Args:
            trainer: Lightning's.
            pl_module: unused.
        """
        logger = tracked_logger(trainer.loggers)
        if self._seen and logger is not None and trainer.is_global_zero:
            logger.run.log_figure(predictions_figure(*self._all()), "predictions.png")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the table.

        Args:
            trainer: Lightning's.
            pl_module: unused.
        """
        logger = tracked_logger(trainer.loggers)
        if self._seen and logger is not None and trainer.is_global_zero:
            import pandas as pd

            columns = {name: part.numpy() for name, part in self._all()._asdict().items()}
            logger.run.log_text(pd.DataFrame(columns).to_csv(index=False), "predictions.csv")


def predictions_figure(prediction: Tensor, target: Tensor) -> Any:
    """Plot predicted against true values.

    Args:
        prediction: in the target's unit, shape ``(N,)``.
        target: in the same unit, same shape.

    Returns:
        A matplotlib figure: points on or near the diagonal are good; the title carries the root mean squared error.
    """
    from matplotlib.figure import Figure  # half a second; without pyplot, so that no figure is kept alive

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    low, high = (float(f(torch.cat([prediction, target]))) for f in (torch.min, torch.max))
    axes.plot([low, high], [low, high], color="0.6", linewidth=1, label="prediction = truth")
    axes.scatter(target.numpy(), prediction.numpy(), s=16, alpha=0.7, edgecolors="none")
    rmse = float((prediction - target).square().mean().sqrt())
    axes.set(xlabel="true value", ylabel="predicted value", title=f"test part, n = {len(target)}, RMSE = {rmse:.4g}")
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="upper left")
    return figure
