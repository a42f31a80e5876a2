"""The operator that a measurement multiplies by: which matrix, of which loss, in which coordinates."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from gradgrad.curvature.outputs import halves
from gradgrad.curvature.stability import preconditioner
from gradgrad.curvature.training_loss import sample_counter, training_loss
from gradgrad.derivatives import GGNOperator, HessianOperator
from gradgrad.derivatives.curvature import CurvatureOperator
from gradgrad.derivatives.operators import LinearOperator, ScaledOperator
from gradgrad.errors import UsageError
from gradgrad.selection import select

Kind = Literal["hessian", "ggn", "preconditioned"]
COMPILED = "_orig_mod."  # what torch.compile puts into names


def trainable(module: LightningModule) -> dict[str, nn.Parameter]:
    """Name what is trained.

    Args:
        module: anyone's.

    Returns:
        Parameters that require a gradient, tied ones once, by the names that they have uncompiled.
    """
    return {name.replace(COMPILED, ""): p for name, p in module.named_parameters() if p.requires_grad}


def blocks(module: LightningModule, patterns: Iterable[str]) -> dict[str, dict[str, nn.Parameter]]:
    """Choose the parameters of diagonal blocks.

    Args:
        module: anyone's.
        patterns: globs, or regular expressions that begin with ``^``.

    Returns:
        Parameters by pattern.
    """
    params = trainable(module)
    return {
        pattern: {name: params[name] for name in select(params, pattern, "HessianSpectrum", "blocks")} for pattern in patterns
    }


def reducer(trainer: Trainer) -> Callable[[Tensor], Tensor] | None:
    """Find how sums over processes are made.

    Args:
        trainer: with its strategy.

    Returns:
        Adds a tensor over all ranks; None for a single process.

    Raises:
        UsageError: a strategy under which no process has all parameters.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        # The bare module computes, without DDP's hooks; one sum per block of vectors is all that crosses.
        return lambda tensor: strategy.reduce(tensor, reduce_op="sum")
    if isinstance(strategy, SingleDeviceStrategy):
        return None
    raise UsageError(
        f"curvature cannot be measured under {type(strategy).__name__}, where a process may not have all parameters.\n"
        "expected: one device, or ddp\n"
        "write:    trainer.strategy: ddp, or gradgrad spectrum on one device afterwards"
    )


def curvature_operator(
    kind: Kind, module: LightningModule, params: Mapping[str, Tensor], batches: Iterable[Any], trainer: Trainer
) -> LinearOperator | None:
    """Make the operator.

    Args:
        kind: ``hessian``, ``ggn``, or ``preconditioned``: the Hessian in the coordinates of an adaptive optimizer.
        module: whose training loss is meant.
        params: with respect to which.
        batches: on the device.
        trainer: with strategy and optimizers.

    Returns:
        The operator; None where an adaptive optimizer has made no step yet.
    """
    loss, count, reduce = training_loss(module), sample_counter(module), reducer(trainer)
    if kind == "ggn":
        model, of_outputs = halves(module, loss)
        return GGNOperator(model, of_outputs, params, batches, count, reduce=reduce)
    hessian = HessianOperator(loss, params, batches, count, reduce=reduce)
    if kind == "hessian":
        return hessian
    diagonal = preconditioner(trainer.optimizers, list(params.values()))
    return None if diagonal is None else ScaledOperator(hessian, diagonal.to(hessian.dtype).rsqrt())


def underlying(operator: LinearOperator) -> CurvatureOperator[Any]:
    """Find the operator that knows the loss.

    Args:
        operator: of :func:`curvature_operator`.

    Returns:
        It, or the one inside.
    """
    while not isinstance(operator, CurvatureOperator):
        operator = operator.operator  # type: ignore[attr-defined]  # scaled, or watched
    return operator


def scale_of(operator: LinearOperator) -> Tensor | None:
    """Find the coordinates of a preconditioned operator.

    Args:
        operator: of :func:`curvature_operator`, perhaps watched.

    Returns:
        The diagonal of D in D H D; None where there is none.
    """
    while not isinstance(operator, ScaledOperator | CurvatureOperator):
        operator = operator.operator  # type: ignore[attr-defined]  # watched
    return operator.scale if isinstance(operator, ScaledOperator) else None


def layer_shares(vector: Tensor, params: Mapping[str, Tensor]) -> dict[str, float]:
    """Tell where a unit vector lives.

    Args:
        vector: shape ``(P,)``.
        params: in the order of the operator.

    Returns:
        Sum of squared entries by layer, the module that holds the parameter; they add up to 1.
    """
    squares = torch.split(vector.square(), [p.numel() for p in params.values()])
    found: dict[str, float] = {}
    for name, square in zip(params, squares, strict=True):
        layer = name.rpartition(".")[0] or name
        found[layer] = found.get(layer, 0.0) + float(square.sum())
    return found
