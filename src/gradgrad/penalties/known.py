"""A scalar whose value and gradient are known already."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradgrad.errors import UsageError


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], scale: Tensor, *inputs: Tensor) -> Tensor:
        ctx.gradients, ctx.scale = gradients, scale
        return value.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # with create_graph=True; the gradient is a number here, a second derivative would be wrong
            raise UsageError(
                "A penalized loss can be differentiated once only; got create_graph=True.\n"
                "write:    module.loss(batch), the unpenalized loss, where higher derivatives are wanted"
            )
        factor = slope * ctx.scale
        return (None, None, None, *(factor * gradient for gradient in ctx.gradients))


def known(value: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor], scale: Tensor | None = None) -> Tensor:
    """Make a scalar of the given value, with the given gradient with respect to the given inputs.

    Args:
        value: scalar; its own graph is not used.
        inputs: tensors with a graph, or leaves.
        gradients: what backward hands each of them, times the outer slope; no graph, same shapes as ``inputs``.
        scale: scalar, a factor of all gradients; None is 1.

    Returns:
        Scalar that can be differentiated once; a second time is an error, not a wrong number.
    """
    scale = torch.ones_like(value) if scale is None else scale
    result: Tensor = _Known.apply(value.detach(), gradients, scale, *inputs)  # type: ignore[no-untyped-call]
    return result
