"""How strongly outputs or losses react to the inputs, as a term of the loss."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from gradgrad.derivatives.params import real_output, require_real
from gradgrad.errors import UsageError
from gradgrad.penalties.evaluation import LossEvaluation
from gradgrad.penalties.penalty import Penalty, PenaltyTerm


class InputGradientPenalty(Penalty):
    r"""Penalize reaction to the inputs: :math:`P = w\,\frac1B \sum_i \lVert \partial f(x_i) / \partial x_i \rVert_F^2`.

    With target ``output`` f is the module's forward: Jacobian regularization [Hoffman et al. 2019], in a linear model the same as
    L2. With target ``loss`` f is the loss of one sample: double backpropagation [Drucker and Le Cun 1992, IEEE TNN 3(6)].
    Samples must not see one another (BatchNorm in training mode mixes them). The inputs are the batch's field or key ``x``, else
    its first entry.

    Args:
        weight: :math:`w \ge 0`, in units of the loss times squared input per squared output (or loss). 0 costs nothing.
        target: whose gradient, ``output`` or ``loss``.
        projections: ``exact`` differentiates each of the T outputs (T backward passes); a number n takes n random directions u
            on the unit sphere, and :math:`\frac{T}{n} \sum_k \lVert u_k^\top J \rVert^2`, which is right on average.
        every: apply it each k-th optimizer step only, k times as strong.
        warmup_steps: optimizer steps over which the weight grows linearly from 0.

    Raises:
        UsageError: a negative weight, an unknown target, fewer than one projection.
    """

    norm_name = "input_gradient_norm"
    passes_again = True
    needs_graph = False

    def __init__(
        self,
        weight: float,
        target: Literal["output", "loss"] = "output",
        projections: int | Literal["exact"] = "exact",
        every: int = 1,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(weight, every, warmup_steps)
        if target not in ("output", "loss"):
            raise UsageError(f"InputGradientPenalty got target {target!r}; write output or loss.")
        if projections != "exact" and (not isinstance(projections, int) or isinstance(projections, bool) or projections < 1):
            raise UsageError(
                f"InputGradientPenalty got projections {projections!r}; write exact, or 1 or more random directions."
            )
        if target == "loss" and projections != "exact":
            raise UsageError(
                "InputGradientPenalty got projections with target loss; write exact: a loss is one number per sample."
            )
        self.target = target
        self.projections = projections

    def term(self, evaluation: LossEvaluation, weight: float) -> PenaltyTerm:
        """Compute the term to add to a loss.

        Args:
            evaluation: the loss at one batch.
            weight: in force now, larger than 0.

        Returns:
            The term, and the root mean square over samples of the Jacobian's Frobenius norm (output or loss per unit of input).

        Raises:
            UsageError: inputs that are not real numbers, or outputs without a batch axis.
        """
        if not self.proved and any(isinstance(layer, _BatchNorm) and layer.training for layer in evaluation.module.modules()):
            warnings.warn(
                "InputGradientPenalty got BatchNorm in training mode, which mixes samples: the gradient in one sample's inputs "
                "is then that of all outputs. Write GroupNorm or LayerNorm to penalize each sample's own.",
                stacklevel=2,
            )
        x = _inputs(evaluation.batch)
        require_real(x, "inputs", type(self).__name__)
        x = x.detach().requires_grad_()
        with evaluation.twice():
            squares = self._of_the_loss(evaluation, x) if self.target == "loss" else self._of_the_output(evaluation, x)
        mean = squares / len(x)
        return PenaltyTerm(weight * mean, mean.detach().sqrt())

    def _of_the_loss(self, evaluation: LossEvaluation, x: Tensor) -> Tensor:
        loss = evaluation.again(batch=_with_inputs(evaluation.batch, x))
        # The loss is a mean: one sample's own gradient is B times as large.
        return (_gradient(loss, x) * len(x)).square().sum()

    def _of_the_output(self, evaluation: LossEvaluation, x: Tensor) -> Tensor:
        output = real_output(evaluation.output(x), type(self).__name__)
        if not output.dim() or len(output) != len(x):
            raise UsageError(
                f"InputGradientPenalty got outputs of shape {tuple(output.shape)} for {len(x)} inputs; "
                "expected one row for each input."
            )
        output = output.reshape(len(x), -1)
        width = output.shape[1]
        if self.projections == "exact" or width == 1:
            return torch.stack([_gradient(column.sum(), x).square().sum() for column in output.unbind(1)]).sum()
        draws = [torch.nn.functional.normalize(torch.randn_like(output), dim=1) for _ in range(int(self.projections))]
        return torch.stack([_gradient((output * u).sum(), x).square().sum() for u in draws]).sum() * (width / len(draws))


def _gradient(value: Tensor, x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(value, x, create_graph=True, materialize_grads=True)
    return gradient


def _inputs(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return batch.get("x", next(iter(batch.values()), None))
    if isinstance(batch, tuple | list):
        return getattr(batch, "x", batch[0] if batch else None)
    return batch


def _with_inputs(batch: Any, x: Tensor) -> Any:
    if isinstance(batch, Mapping):
        return {**batch, ("x" if "x" in batch else next(iter(batch))): x}
    if hasattr(batch, "_replace"):
        return batch._replace(**{"x" if hasattr(batch, "x") else batch._fields[0]: x})
    if isinstance(batch, tuple | list):
        return type(batch)([x, *batch[1:]])
    return x
