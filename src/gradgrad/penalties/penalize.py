"""A loss with its penalties, in one call from a ``training_step``."""

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from gradgrad.errors import UsageError
from gradgrad.penalties.evaluation import LossEvaluation
from gradgrad.penalties.penalty import Penalty, PenaltyTerm
from gradgrad.penalties.proof import prove


class Penalized(NamedTuple):
    """A loss with its penalties.

    Attributes:
        total: scalar to minimize.
        loss: the unpenalized loss, without graph.
        penalty: sum of the penalties' values, without graph; 0 where none is in force.
        norms: what each penalty in force keeps small, by ``norm_name``; where several share one, with their place in the list.
    """

    total: Tensor
    loss: Tensor
    penalty: Tensor
    norms: dict[str, Tensor]


def penalize(module: nn.Module, batch: Any, penalties: Iterable[nn.Module] | Penalty, step: int = 0) -> Penalized:
    r"""Evaluate :math:`L(\theta) + \sum_i P_i(\theta)` at a batch.

    In a LightningModule: ``penalized = penalize(self, batch, self.penalties, self.global_step)``; return ``penalized.total``.
    Every penalty is about the plain loss; the loss is evaluated once and its gradient computed once for all of them. Where no
    penalty is in force, ``total`` is the plain loss, bit for bit.

    Args:
        module: has ``loss(batch)``, the mean loss over the samples; for input gradients its forward maps inputs to outputs.
        batch: what ``module.loss`` takes.
        penalties: one or several; of this package, or own subclasses of ``Penalty``.
        step: optimizer steps done so far, for warm-up and ``every``.

    Returns:
        What to minimize and what to log.

    Raises:
        UsageError: the module has no loss, its loss is not a number, or PyTorch cannot differentiate it twice; the last is found
            at the first call, before a warm-up is over.
    """
    terms = _listed(penalties)
    for penalty in terms:
        if penalty.weight > 0 and not penalty.proved:
            prove(penalty, module, batch)
            penalty.proved = True
    active = [(name, p, w) for name, p in zip(_names(terms), terms, strict=True) if (w := p.weight_at(step)) > 0]
    needs_graph, passes_again = any(p.needs_graph for _, p, _ in active), any(p.passes_again for _, p, _ in active)
    evaluation = LossEvaluation(module, batch, needs_graph, passes_again)
    loss = evaluation.loss.detach()
    if not active:
        return Penalized(evaluation.loss, loss, torch.zeros_like(loss), {})
    evaluation.require_gradient()
    found: list[PenaltyTerm] = [p.term(evaluation, w) for _, p, w in active]
    first, *others = [term.value for term in found]
    penalty_value = sum(others, first)
    norms = {name: term.norm for (name, _, _), term in zip(active, found, strict=True)}
    plain = sum((term.plain for term in found), 0.0)
    return Penalized(evaluation.objective(plain) + penalty_value, loss, penalty_value.detach(), norms)


def _listed(penalties: Iterable[nn.Module] | Penalty) -> list[Penalty]:
    listed = [penalties] if isinstance(penalties, Penalty) else list(penalties)
    for penalty in listed:
        if not isinstance(penalty, Penalty):
            raise UsageError(
                f"penalize got a {type(penalty).__name__} among the penalties; expected gradgrad.penalties.Penalty.\n"
                "write:    GradientNormPenalty(weight), or a subclass of Penalty with your own term()"
            )
    return cast(list[Penalty], listed)


def _names(penalties: list[Penalty]) -> list[str]:
    names = [penalty.norm_name for penalty in penalties]
    return [f"{name}_{place}" if names.count(name) > 1 else name for place, name in enumerate(names)]
