r"""Up to which curvature an optimizer is stable, and in which coordinates it sees the loss."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, Optimizer, RMSprop

from gradgrad.errors import UsageError


def learning_rate(optimizers: Sequence[Optimizer]) -> float | None:
    """Read the learning rate.

    Args:
        optimizers: the trainer's.

    Returns:
        That of a lone optimizer whose groups share one; else None.
    """
    rates = {float(group["lr"]) for optimizer in optimizers for group in optimizer.param_groups}
    return rates.pop() if len(rates) == 1 and len(optimizers) == 1 else None


def stability_threshold(optimizers: Sequence[Optimizer], preconditioned: bool) -> float | None:
    r"""Give the largest curvature along which steps on a quadratic do not grow.

    With rate :math:`\eta` and momentum :math:`\beta`: gradient descent :math:`2/\eta`, heavy ball :math:`(2 + 2\beta)/\eta`,
    Nesterov :math:`(2 + 2\beta)/(\eta (1 + 2\beta))` [Cohen et al. 2021, ICLR], less the weight decay; dampening divides the
    rate. In preconditioned coordinates, Adam :math:`(2 + 2\beta_1)/((1 - \beta_1) \eta)`, 38/lr at 0.9 [Cohen et al. 2022], with
    decoupled decay :math:`\omega` times :math:`1 - \eta \omega / 2`; RMSprop and Adagrad as descent.

    Args:
        optimizers: the trainer's.
        preconditioned: whether curvature is measured in the optimizer's coordinates.

    Returns:
        In units of the eigenvalues; None for an optimizer, or a mixture of settings, for which there is no such number.
    """
    rate = learning_rate(optimizers)
    if not rate:
        return None
    (optimizer,) = optimizers
    found = {_threshold(optimizer, group, rate, preconditioned) for group in optimizer.param_groups}
    return found.pop() if len(found) == 1 else None


def _threshold(optimizer: Optimizer, group: dict[str, Any], rate: float, preconditioned: bool) -> float | None:
    if group.get("maximize"):
        return None
    beta, decay = float(group.get("momentum", 0.0)), float(group.get("weight_decay", 0.0))
    if type(optimizer) is SGD and not preconditioned:
        if group["nesterov"]:
            return (2 + 2 * beta) / (rate * (1 + 2 * beta)) - decay
        return (2 + 2 * beta) / (rate * (1 - float(group["dampening"]))) - decay
    if not preconditioned or (decay and not group.get("decoupled_weight_decay")):
        return None
    if isinstance(optimizer, Adam):  # AdamW is one
        first = float(group["betas"][0])
        return (1 + first) * (2 - rate * decay) / ((1 - first) * rate)
    if type(optimizer) is RMSprop:
        return (2 + 2 * beta) / rate
    return 2 / rate if type(optimizer) is Adagrad and not group["lr_decay"] else None


def preconditioner(optimizers: Sequence[Optimizer], params: Sequence[Tensor]) -> Tensor | None:
    r"""Read the diagonal P by which an adaptive optimizer divides gradients.

    Adam's is :math:`(1 - \beta_1^t)(\sqrt{v / (1 - \beta_2^t)} + \epsilon)` [Cohen et al. 2022, arXiv:2207.14484], RMSprop's and
    Adagrad's the same root without corrections. Curvature as the optimizer sees it is that of
    :math:`P^{-1/2} H P^{-1/2}`, which has the eigenvalues of :math:`P^{-1} H`.

    Args:
        optimizers: the trainer's.
        params: in the order of the operator.

    Returns:
        Shape ``(P,)``, positive; None before the first step.

    Raises:
        UsageError: not one adaptive optimizer, or a parameter that it does not have.
    """
    kinds = [type(optimizer).__name__ for optimizer in optimizers]
    if len(optimizers) != 1 or not isinstance(optimizers[0], Adam | RMSprop | Adagrad):
        raise UsageError(
            f"operator: preconditioned needs the second moments of one adaptive optimizer; got {', '.join(kinds) or 'none'}.\n"
            "expected: Adam, AdamW, RMSprop or Adagrad\nwrite:    operator: hessian"
        )
    (optimizer,) = optimizers
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    if absent := sum(p not in groups for p in params):
        raise UsageError(
            f"operator: preconditioned got {absent} of {len(params)} parameters that {kinds[0]} does not change.\n"
            "write:    an optimizer of all trainable parameters, or operator: hessian"
        )
    states: list[dict[str, Any]] = [optimizer.state.get(p, {}) for p in params]  # never [p], which would make one
    stepped = [bool(state) and float(state["step"]) > 0 for state in states]
    if not any(stepped):
        return None
    # What never had a gradient has no moments, and no curvature either: any P will do.
    parts = [
        _diagonal(state, groups[p]) if moved else torch.ones_like(p)
        for state, moved, p in zip(states, stepped, params, strict=True)
    ]
    return torch.cat([part.detach().flatten() for part in parts])


def _diagonal(state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    if "exp_avg_sq" in state:
        first, second = group["betas"]
        step = float(state["step"])
        moment = state.get("max_exp_avg_sq", state["exp_avg_sq"])
        root: Tensor = (moment / (1 - second**step)).sqrt() + group["eps"]
        return root * float(1 - first**step)
    moment = state["square_avg"] if "square_avg" in state else state["sum"]
    if "grad_avg" in state:  # centered
        moment = moment - state["grad_avg"].square()
    diagonal: Tensor = moment.sqrt() + group["eps"]
    return diagonal


def against(optimizers: Sequence[Optimizer], metrics: dict[str, float], kind: str) -> dict[str, float]:
    """Compare the sharpness with the learning rate.

    Args:
        optimizers: the trainer's.
        metrics: with ``lambda_max``, or without.
        kind: of the operator.

    Returns:
        ``sharpness_times_lr``, and where there is one ``threshold`` and ``sharpness_over_threshold``.
    """
    rate = learning_rate(optimizers)
    if rate is None or "lambda_max" not in metrics:
        return {}
    found = {"sharpness_times_lr": metrics["lambda_max"] * rate}
    threshold = stability_threshold(optimizers, kind == "preconditioned") if kind != "ggn" else None
    if threshold:
        found |= {"threshold": threshold, "sharpness_over_threshold": metrics["lambda_max"] / threshold}
    return found
