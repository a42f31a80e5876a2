"""How a learner does on tasks, step by step, and what that is over many tasks."""

from typing import NamedTuple

import torch
from torch import Tensor

from gradgrad.adaptation.adapt import detached
from gradgrad.adaptation.execution import Execution
from gradgrad.adaptation.inner_optimizer import Tensors
from gradgrad.adaptation.learner import Learner
from gradgrad.batches import AdaptedTasks, TaskBatch


def evaluate(
    learner: Learner,
    meta: Tensors,
    tasks: TaskBatch,
    execution: Execution,
    steps: int,
    shown: int | None = None,
    keep_params: bool = False,
) -> AdaptedTasks:
    """Adapt to each task and judge it after every step; keeps no graph, and works under inference mode.

    Args:
        learner: adapts.
        meta: meta-parameters.
        tasks: T of them.
        execution: how the tasks are computed; never compiled here.
        steps: S, how far to go; more than were trained is all right.
        shown: after how many steps ``after`` and ``params`` are taken; None means all.
        keep_params: whether to return the adapted parameters.

    Returns:
        Losses and accuracies after 0, ..., S steps, and outputs before and after.
    """
    shown = steps if shown is None else min(shown, steps)
    loop = execution.mode == "loop"
    parts = learner.parts(detached({**learner.constants(), **meta} if keep_params else meta))

    def one(task: TaskBatch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensors]:
        known = task.query_y if task.query_y.is_floating_point() else task.query_y.clamp_min(0)
        scores, params = [], Tensors()
        for step, fast in enumerate(learner.path(parts, (task.support_x, task.support_y), steps, first_order=True, loop=loop)):
            scores.append(learner.score(fast, parts.slow, task.query_x, known))
            if keep_params and step == shown:
                params = {**parts.slow, **fast}
        losses, accuracies = (torch.stack([score[place] for score in scores]) for place in (0, 1))
        if known is not task.query_y:
            losses, accuracies = (scores.where((task.query_y >= 0).all(), torch.nan) for scores in (losses, accuracies))
        return losses, accuracies, scores[0].output, scores[shown].output, {name: p.clone() for name, p in params.items()}

    return AdaptedTasks(tasks, *execution.map(one, tasks))


class Statistics(NamedTuple):
    """A score over n tasks, after each number of steps; all of shape ``(S + 1,)``.

    Attributes:
        mean: over tasks; infinite or NaN as soon as one task is.
        ci95: half the width of the mean's 95 % interval over tasks, 1.96 standard errors.
        median: over tasks.
        p95: 95th percentile over tasks.
    """

    mean: Tensor
    ci95: Tensor
    median: Tensor
    p95: Tensor


def statistics(scores: Tensor, worst: float = torch.inf) -> Statistics:
    """Describe scores.

    Args:
        scores: shape ``(n, S + 1)``, n > 0.
        worst: what NaN counts for in the order of the percentiles: plus infinity for a loss.

    Returns:
        Mean, interval, median and 95th percentile.
    """
    scores = scores.double()
    spread = scores.std(0) if len(scores) > 1 else torch.full_like(scores[0], torch.nan)
    ordered = scores.nan_to_num(nan=worst, posinf=torch.inf, neginf=-torch.inf).sort(0).values
    median, p95 = (_percentile(ordered, share) for share in (0.5, 0.95))
    return Statistics(scores.mean(0), 1.96 * spread / len(scores) ** 0.5, median, p95)


def _percentile(ordered: Tensor, share: float) -> Tensor:
    """Interpolate between order statistics; ``torch.quantile`` and ``lerp`` make NaN of infinite neighbours."""
    place = share * (len(ordered) - 1)
    low, fraction = int(place), place - int(place)
    upper = ordered[min(low + 1, len(ordered) - 1)]
    between = (1 - fraction) * ordered[low] + fraction * upper
    return torch.where(upper == ordered[low], upper, between) if fraction else ordered[low]


def diverged(losses: Tensor, above: float) -> Tensor:
    """Count tasks that adaptation has spoilt: no number, or beyond ``above`` and worse than before adaptation.

    Args:
        losses: shape ``(n, S + 1)``.
        above: what a hard task may lose without counting.

    Returns:
        Counts after each number of steps, shape ``(S + 1,)``.
    """
    return (~(losses <= losses[:, :1].clamp_min(above))).sum(0)
