"""A truncated series as an operand: beside tensors and numbers, under torch's broadcasting and promotion."""

from collections.abc import Callable, Iterator
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor

from gradgrad.derivatives import series
from gradgrad.errors import UsageError


class Truncated:
    """What rules see of a series.

    Args:
        orders: the normalized coefficients, shape ``(K + 1, *shape)``.
        mark: the call of ``taylor`` that it belongs to; series in different variables do not mix.

    Raises:
        UsageError: coefficients that are not real floating-point numbers.
    """

    def __init__(self, orders: Tensor, mark: object) -> None:
        if not orders.is_floating_point():
            raise UsageError(f"taylor got f with an intermediate result of {orders.dtype}; expected real floating-point numbers.")
        self.orders = orders
        self.mark = mark
        self.shared = False  # whether torch's tensor would share its numbers with another one

    def like(self, orders: Tensor) -> Self:
        """Make a series in the same variable.

        Args:
            orders: its normalized coefficients.

        Returns:
            The series.
        """
        return type(self)(orders, self.mark)


Operand: TypeAlias = Any  # a series, a tensor or a number; in rules that are written in torch, a series poses as a tensor


def series_in(value: object) -> Iterator[Truncated]:
    """Find the series among arguments.

    Args:
        value: one argument, or several in tuples, lists and dicts.

    Yields:
        Every series.
    """
    if isinstance(value, Truncated):
        yield value
    elif isinstance(value, list | tuple | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from series_in(entry)


def value_of(x: Operand) -> Any:
    """Give order 0 of a series, and a constant as it is."""
    return x.orders[0] if isinstance(x, Truncated) else x


def _ndim(x: Operand) -> int:
    value = value_of(x)
    return value.ndim if isinstance(value, Tensor) else 0


def aligned(*operands: Operand) -> list[Any]:
    """Give stacks as many axes behind the order's as torch's broadcasting would."""
    ndim = max(map(_ndim, operands))
    return [
        x.orders.reshape(len(x.orders), *[1] * (ndim - _ndim(x)), *x.orders.shape[1:]) if isinstance(x, Truncated) else x
        for x in operands
    ]


def promoted(a: Operand, b: Operand) -> list[Any]:
    """Align, and cast as torch would; the axis of orders must not make a lone number a vector."""
    dtype = torch.result_type(value_of(a), value_of(b))
    return [x.to(dtype) if isinstance(x, Tensor) else x for x in aligned(a, b)]


def first_series(*operands: Operand) -> Truncated:
    """Give the first series among operands, which knows its variable and how many orders there are."""
    return next(series_in(operands))


def lifted(x: Operand, like: Truncated) -> Truncated:
    """Make a series of a constant, with as many orders as ``like``; a series stays what it is."""
    if isinstance(x, Truncated):
        return x
    value = x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=like.orders.dtype, device=like.orders.device)
    # Of integers there are no series; beside a floating-point operand torch casts them likewise.
    return like.like(series.constant(value if value.is_floating_point() else value.to(like.orders.dtype), like.orders))


def linear_map(function: Callable[..., Any], first: Any, *args: Any, **kwargs: Any) -> Any:
    """Apply a linear map to every coefficient.

    Args:
        function: linear in its first argument.
        first: a series, or a sequence of series and constants.
        args: what else it takes.
        kwargs: by name.

    Returns:
        A series, or a tuple of series.
    """
    like = first_series(first)
    operands = first if isinstance(first, Truncated) else [lifted(x, like) for x in first]
    results = []
    for order in range(len(like.orders)):
        coefficient = operands.orders[order] if isinstance(operands, Truncated) else [x.orders[order] for x in operands]
        results.append(function(coefficient, *args, **kwargs))
    if isinstance(results[0], Tensor):
        return like.like(torch.stack(results))
    return tuple(like.like(torch.stack(parts)) for parts in zip(*results, strict=True))
