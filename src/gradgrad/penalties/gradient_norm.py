"""The norm of the loss gradient with respect to the parameters, as a term of the loss."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist

from gradgrad.errors import UsageError
from gradgrad.penalties.evaluation import LossEvaluation
from gradgrad.penalties.known import known
from gradgrad.penalties.micro_batches import micro_batches
from gradgrad.penalties.norms import p_norm
from gradgrad.penalties.penalty import Penalty, PenaltyTerm
from gradgrad.selection import select

# Finite difference: the pilot's; SAM: Foret et al. 2021, ICLR.
RADII = {"exact": 0.0, "finite_difference": 0.01, "sam": 0.05}


class GradientNormPenalty(Penalty):
    r"""Penalize steep places: :math:`P(\theta) = w\,\lVert \nabla_\theta L(\theta) \rVert_p^2`, or the norm without the square.

    With :math:`g = \nabla L` and :math:`v = \partial P / \partial g`, the gradient of P is :math:`H v`.

    - ``exact``: g is kept in the graph and v taken out of it; :math:`\langle g, v \rangle` then has the gradient :math:`H v`
      exactly, for about 3 plain steps, and without a root that is NaN at a stationary point. Implicit regularization of gradient
      descent with step :math:`h` has this form with :math:`w = h/4`, p = 2, squared [Barrett and Dherin 2021, ICLR].
    - ``finite_difference``: :math:`\frac{|v|}{r}\,(\nabla L(\theta + r v/|v|) - g)`, about 2 plain steps. A regularizer of
      its own that also feels the radius r [Karakida et al. 2023, ICML]. ``squared: false`` is GNP with
      :math:`\alpha = w / r` [Zhao et al. 2022, ICML].
    - ``sam``: :math:`P = w\,(L(\theta + r g/|g|) - L(\theta))`; weight 1 is sharpness-aware minimization [Foret et al. 2021].

    The last two evaluate the loss a second time through ``functional_call``: no weight is touched, buffers move once, and
    dropout masks are the same in both passes.

    Args:
        weight: :math:`w \ge 0`, for squared norms in parameters squared per unit of loss; 0 costs nothing and changes nothing.
        p: 1 or larger, ``inf`` for the largest entry. 2 is the only smooth norm.
        squared: the square of the norm is smooth at zero too.
        method: see above.
        radius: r, in units of the parameters; 0.01 for finite differences, 0.05 for ``sam``. In bfloat16 take 0.1: the
            difference of two gradients is known to 3 digits of a gradient, and divided by the radius.
        parameters: glob such as ``*.weight``, or a regular expression that begins with ``^``, over the names of trainable
            parameters; the norm is of these. None means all.
        scope: ``local`` penalizes the gradient of each process's batch (and so the variance among processes), ``global`` that
            of the mean over processes, at the price of one all-reduce. Without several processes they are the same.
        micro_batch_size: the mean of the penalties of pieces of the batch, which is stronger the smaller they are
            [Novack et al. 2023, ICLR]; with ``sam`` this is m-SAM. Tensors of the batch with another first length than the
            first tensor's go into every piece. Dropout masks are drawn for each piece. None takes the batch as it is.
        every: apply it each k-th optimizer step only, k times as strong.
        warmup_steps: optimizer steps over which the weight grows linearly from 0.

    Raises:
        UsageError: a negative weight or radius, unknown p or method, a combination that means nothing.
    """

    norm_name = "gradient_norm"

    def __init__(
        self,
        weight: float,
        p: float | Literal["inf"] = 2.0,
        squared: bool = True,
        method: Literal["exact", "finite_difference", "sam"] = "exact",
        radius: float | None = None,
        parameters: str | None = None,
        scope: Literal["local", "global"] = "local",
        micro_batch_size: int | None = None,
        every: int = 1,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(weight, every, warmup_steps)
        p = math.inf if p == "inf" else p
        _require(isinstance(parameters, str | None), f"parameters {parameters!r}; write a glob such as '*.weight'.")
        _require(method in RADII, f"method {method!r}; write exact, finite_difference or sam.")
        _require(scope in ("local", "global"), f"scope {scope!r}; write local or global.")
        _require(
            isinstance(p, int | float) and not isinstance(p, bool) and p >= 1,
            f"p {p!r}; write 1, 2, 4, another number from 1 on, or inf.",
        )
        _require(
            method != "exact" or radius is None,
            f"radius {radius} with method exact; write finite_difference or sam, or no radius.",
        )
        _require(
            radius is None or (math.isfinite(radius) and radius > 0),
            f"radius {radius}; write a number larger than 0, 0.05 for example.",
        )
        _require(
            method != "sam" or (p == 2 and squared),
            f"p {p} and squared {squared} with method sam; write neither: sam knows the 2-norm only.",
        )
        _require(
            micro_batch_size is None or (isinstance(micro_batch_size, int) and micro_batch_size >= 1),
            f"micro_batch_size {micro_batch_size}; write 1 or more samples.",
        )
        _require(
            scope == "local" or micro_batch_size is None,
            "scope global with a micro_batch_size; write local: pieces of a batch are smaller than a process's batch.",
        )
        self.p, self.squared, self.method, self.scope = p, squared, method, scope
        self.radius = RADII[method] if radius is None else radius
        self.parameter_pattern = parameters
        self.micro_batch_size = micro_batch_size
        self.needs_graph = method == "exact"
        self.passes_again = method != "exact" or micro_batch_size is not None

    def term(self, evaluation: LossEvaluation, weight: float) -> PenaltyTerm:
        """Compute the term to add to a loss.

        Args:
            evaluation: the loss at one batch.
            weight: in force now, larger than 0.

        Returns:
            The term, and the p-norm of the gradient of the chosen parameters (loss per parameter); with micro-batches the root of
            its mean square, or its mean where the norm is not squared.
        """
        if self.micro_batch_size is None:
            return self._term(evaluation, weight)
        parts = [(n, evaluation.part(piece)) for n, piece in micro_batches(evaluation.batch, self.micro_batch_size)]
        terms = [(n, part, self._term(part, weight)) for n, part in parts]
        total = sum(n for n, _ in parts)
        value = torch.stack([(term.value + _own(part, term.plain)) * (n / total) for n, part, term in terms]).sum()
        power = 2 if self.squared else 1
        norm = torch.stack([term.norm.pow(power) * (n / total) for n, _, term in terms]).sum().pow(1 / power)
        return PenaltyTerm(value, norm)

    def _term(self, evaluation: LossEvaluation, weight: float) -> PenaltyTerm:
        gradients, params = evaluation.gradients, evaluation.params
        chosen = select(params, self.parameter_pattern, type(self).__name__)
        norm = p_norm(
            self._over_processes([gradients.get(name, torch.zeros_like(params[name])).detach() for name in chosen]), self.p
        )
        value = weight * (norm.value.square() if self.squared else norm.value)
        steepness = norm.value * (2 * weight) if self.squared else weight  # of the penalty in the norm
        directions = dict(zip(chosen, norm.directions, strict=True))
        if self.method == "exact":
            force = steepness * norm.factor  # v = force * directions
            used = [name for name in chosen if name in gradients]
            surrogate = known(value, [gradients[name] for name in used], [directions[name] for name in used], force)
            return PenaltyTerm(surrogate, norm.value)
        stride = self.radius * norm.factor / torch.where(norm.slope > 0, norm.slope, 1)
        ahead = evaluation.again(
            {name: torch.addcmul(p, directions[name], stride) if name in directions else p for name, p in params.items()}
        )
        if self.method == "sam":
            rise = ahead.detach() - evaluation.loss.detach()
            return PenaltyTerm(known(weight * rise, [ahead], [torch.full_like(rise, weight)]), norm.value, -weight)
        share = steepness * norm.slope / self.radius  # |v| / r
        return PenaltyTerm(known(value, [ahead], [share]), norm.value, -share)

    def _over_processes(self, pieces: list[Tensor]) -> list[Tensor]:
        if self.scope == "local" or not (dist.is_available() and dist.is_initialized()):
            return pieces
        flat = torch.cat([piece.flatten() for piece in pieces])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        return [part.view_as(piece) for part, piece in zip(torch.split(flat, [p.numel() for p in pieces]), pieces, strict=True)]


def _own(part: LossEvaluation, share: float | Tensor) -> float | Tensor:
    return 0.0 if isinstance(share, float) and share == 0 else part.own_gradient(share)


def _require(sound: bool, sentence: str) -> None:
    if not sound:
        raise UsageError(f"GradientNormPenalty got {sentence}")
