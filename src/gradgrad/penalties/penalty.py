"""What all penalties share: a weight, when it is in force, and a term of the loss."""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from gradgrad.errors import UsageError
from gradgrad.penalties.evaluation import LossEvaluation


class PenaltyTerm(NamedTuple):
    """A penalty at one step.

    Attributes:
        value: scalar, in units of the loss; its gradient is the penalty's, but for ``plain``.
        norm: scalar without graph: what the penalty keeps small, before weight and square.
        plain: the penalty's gradient has besides this multiple of the loss's own gradient, which :func:`penalize` adds where it
            costs nothing.
    """

    value: Tensor
    norm: Tensor
    plain: float | Tensor = 0.0


class Penalty(nn.Module, ABC):
    """A term that a loss adds. Hand it to :func:`gradgrad.penalties.penalize`.

    Args:
        weight: 0 or larger. 0 costs nothing and changes nothing.
        every: apply it at each k-th optimizer step only, k times as strong: the same force on average at a k-th of the cost
            (StyleGAN2's lazy regularization uses 16).
        warmup_steps: optimizer steps over which the weight grows linearly from 0; with adaptive optimizers a penalty that
            is strong from the start can hurt [Zhao et al. 2024]. 0 means the full weight at once.

    Attributes:
        norm_name: how the norm is called in a log.
        needs_graph: whether the loss gradient must itself be differentiable.
        passes_again: whether the loss is evaluated more than once.

    Raises:
        UsageError: a negative or non-finite weight, a negative warm-up, ``every`` below 1.
    """

    norm_name: str
    needs_graph: bool = False
    passes_again: bool = False

    def __init__(self, weight: float, every: int = 1, warmup_steps: int = 0) -> None:
        super().__init__()
        who = type(self).__name__
        if not (isinstance(weight, int | float) and math.isfinite(weight) and weight >= 0):
            raise UsageError(f"{who} got weight {weight}; write a finite number that is 0 or larger.")
        if not isinstance(every, int) or every < 1:
            raise UsageError(f"{who} got every {every}; write 1 (each optimizer step) or a larger number.")
        if not isinstance(warmup_steps, int) or warmup_steps < 0:
            raise UsageError(f"{who} got warmup_steps {warmup_steps}; write 0 (no warm-up) or more steps.")
        self.weight = weight
        self.every = every
        self.warmup_steps = warmup_steps
        self.proved = False

    def weight_at(self, step: int) -> float:
        """Give the weight in force.

        Args:
            step: optimizer steps done so far.

        Returns:
            ``every`` times the weight, or its linear share during the warm-up; 0 between the steps at which it applies.
        """
        if step % self.every:
            return 0.0
        share = min(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        return self.weight * share * self.every

    @abstractmethod
    def term(self, evaluation: LossEvaluation, weight: float) -> PenaltyTerm:
        """Compute the term to add to a loss.

        Args:
            evaluation: the loss at one batch.
            weight: in force now, larger than 0.

        Returns:
            The term and its norm.
        """

    def forward(self, module: nn.Module, batch: Any, step: int = 0) -> "Any":
        """Penalize a loss by this term alone: ``penalize(module, batch, [self], step)``."""
        from gradgrad.penalties.penalize import penalize  # which knows how to hold several

        return penalize(module, batch, [self], step)
