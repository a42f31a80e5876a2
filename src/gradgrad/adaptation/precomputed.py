"""A gradient that is known already, as a loss whose backward pass gives it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _Precomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *params: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *scales: Tensor) -> Any:
        (scale,) = scales
        return None, None, *(g * scale for g in ctx.gradients)


def with_gradient(value: Tensor, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Attach a gradient to a number.

    So that a trainer's backward pass, with its scaling, its hooks and its reduction over ranks, sees a loss like any other.

    Args:
        value: scalar, without graph.
        params: tensors that require a gradient.
        gradients: one for each.

    Returns:
        ``value``, whose gradient with respect to ``params`` is ``gradients``.
    """
    loss: Tensor = _Precomputed.apply(value, gradients, *params)  # type: ignore[no-untyped-call]
    return loss
