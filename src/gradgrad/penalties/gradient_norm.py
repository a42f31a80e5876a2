"""The squared norm of the loss gradient with respect to the parameters, as a term of the loss."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gradgrad.errors import UsageError


class PenaltyTerm(NamedTuple):
    """A penalty at one step.

    Attributes:
        value: scalar, in units of the loss; its gradient is the penalty's exact gradient.
        gradient_norm: scalar without graph, the Euclidean norm of the unpenalized gradient (loss per parameter).
    """

    value: Tensor
    gradient_norm: Tensor


class GradientNormPenalty(nn.Module):
    r"""Penalize steep places: :math:`P(\theta) = w\,\lVert \nabla_\theta L(\theta) \rVert_2^2`.

    Its gradient is :math:`2 w H g`. With :math:`g = \nabla L` kept in the graph and :math:`v = \partial P / \partial g = 2 w g`
    taken out of it, the surrogate :math:`\langle g, v \rangle` has that gradient exactly, at the price of one product with the
    Hessian and without a square root that would be NaN at a stationary point. Implicit regularization of gradient descent
    with step :math:`h` has the same form with :math:`w = h/4` [Barrett and Dherin 2021, ICLR].

    Args:
        weight: :math:`w \ge 0`, in parameters squared per unit of loss. 0 costs nothing and changes nothing.
        warmup_steps: optimizer steps over which the weight grows linearly from 0; with adaptive optimizers a penalty that
            is strong from the start can hurt [Zhao et al. 2024]. 0 means the full weight at once.

    Raises:
        UsageError: a negative or non-finite weight, negative warm-up.
    """

    def __init__(self, weight: float, warmup_steps: int = 0) -> None:
        super().__init__()
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(f"GradientNormPenalty got weight {weight}; write a finite number that is 0 or larger.")
        if warmup_steps < 0:
            raise UsageError(f"GradientNormPenalty got warmup_steps {warmup_steps}; write 0 (no warm-up) or more steps.")
        self.weight = weight
        self.warmup_steps = warmup_steps

    def weight_at(self, step: int) -> float:
        """Give the weight in force.

        Args:
            step: optimizer steps done so far.

        Returns:
            ``weight``, or its linear share during the warm-up.
        """
        if step >= self.warmup_steps:
            return self.weight
        return self.weight * step / self.warmup_steps

    def forward(self, loss: Tensor, params: Iterable[Tensor], step: int) -> PenaltyTerm:
        """Compute the term to add to ``loss``.

        Args:
            loss: scalar with a graph, in units of the loss.
            params: leaves of the loss; frozen and unused ones are passed over.
            step: optimizer steps done so far, for the warm-up.

        Returns:
            The term and the norm of the gradient that it penalizes.
        """
        leaves = [p for p in params if p.requires_grad]
        gradients = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
        used = [g for g in gradients if g is not None]
        squared_norm = torch.stack([g.detach().square().sum() for g in used]).sum()
        weight = self.weight_at(step)
        surrogate = torch.stack([(g * (2 * weight * g.detach())).sum() for g in used]).sum()
        # The surrogate is twice the penalty in value; only its gradient is wanted.
        value = surrogate + (weight * squared_norm - surrogate).detach()
        return PenaltyTerm(value, squared_norm.sqrt())
