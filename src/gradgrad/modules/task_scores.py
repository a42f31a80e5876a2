"""Scores of all evaluation tasks, over steps and ranks."""

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from gradgrad.adaptation.evaluation import diverged, statistics


class TaskScores(Metric):
    """Gather each task's loss and accuracy after each number of inner steps."""

    full_state_update = False
    losses: list[Tensor]
    accuracies: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("losses", default=[], dist_reduce_fx="cat")
        self.add_state("accuracies", default=[], dist_reduce_fx="cat")

    def update(self, losses: Tensor, accuracies: Tensor) -> None:
        """Add tasks.

        Args:
            losses: shape ``(T, S + 1)``.
            accuracies: same shape, NaN in regression.
        """
        self.losses.append(losses.detach())
        self.accuracies.append(accuracies.detach())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Join all tasks of all ranks.

        Returns:
            Losses and accuracies, shape ``(n, S + 1)``.
        """
        return dim_zero_cat(self.losses), dim_zero_cat(self.accuracies)


def headline(losses: Tensor, accuracies: Tensor, counted: int, diverged_above: float) -> dict[str, float]:
    """Name what is logged.

    Args:
        losses: shape ``(n, S + 1)``.
        accuracies: same shape, NaN in regression.
        counted: number of steps whose scores are the headline.
        diverged_above: a loss beyond this, or one that is no number, counts as diverged.

    Returns:
        ``loss`` with ``_ci95``, ``_median``, ``_p95`` and the number ``diverged``, of the steps that count; ``loss_at_00``, ...
        by steps, and ``diverged_at_<S>`` after the last; ``accuracy`` likewise in classification, without percentiles.
    """
    told, last = dict[str, float](), losses.shape[1] - 1
    spoilt = diverged(losses, diverged_above)
    of_losses = statistics(losses)
    named = {"": of_losses.mean, "_ci95": of_losses.ci95, "_median": of_losses.median, "_p95": of_losses.p95}
    told |= {f"loss{suffix}": float(values[counted]) for suffix, values in named.items()}
    told |= {"diverged": float(spoilt[counted]), f"diverged_at_{last:02d}": float(spoilt[last])}
    told |= {f"loss_at_{step:02d}": float(value) for step, value in enumerate(of_losses.mean)}
    if not accuracies.isnan().all():
        of_accuracies = statistics(accuracies)
        told |= {"accuracy": float(of_accuracies.mean[counted]), "accuracy_ci95": float(of_accuracies.ci95[counted])}
        told |= {f"accuracy_at_{step:02d}": float(value) for step, value in enumerate(of_accuracies.mean)}
    return told
