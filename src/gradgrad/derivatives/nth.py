"""Derivatives of order n of elementwise functions, by nested reverse mode."""

from collections.abc import Callable

import torch
from torch import Tensor

from gradgrad.derivatives.double_backward import double_backward
from gradgrad.derivatives.params import attached, ordinary, real_output, require_real, variables
from gradgrad.derivatives.products import scalar_gradient
from gradgrad.errors import UsageError

Function = Callable[[Tensor], Tensor]


def nth_derivative(f: Function, order: int) -> Function:
    r"""Make the n-th derivative of an elementwise function, :math:`x \mapsto f^{(n)}(x)`.

    Args:
        f: maps a tensor to one of the same shape, each number to one number; a module applied to a column is such a function.
        order: :math:`n \ge 0`; 0 gives ``f`` itself. Cost grows about threefold with each order
            (:func:`gradgrad.derivatives.taylor` pays polynomially). Use float64 from order 4 on.

    Returns:
        A function of x of any shape; unit: that of f over the n-th power of that of x. Its result is differentiable, with
        respect to x and to what ``f`` captures, unless gradients are off around the call.

    Raises:
        UsageError: a negative order; when called: x not real, or an output of another shape.
    """
    require_order(order, "nth_derivative")
    return lambda x: _derivatives(f, x, order, "nth_derivative")[-1]


def derivatives(f: Function, x: Tensor, order: int) -> tuple[Tensor, ...]:
    r"""Evaluate an elementwise function and its derivatives, :math:`f(x), f'(x), \dots, f^{(n)}(x)`.

    Args:
        f: as in :func:`nth_derivative`.
        x: floating-point, any shape.
        order: :math:`n \ge 0`.

    Returns:
        n + 1 tensors of the shape of x.

    Raises:
        UsageError: a negative order, x not real, or an output of another shape.
    """
    require_order(order, "derivatives")
    return _derivatives(f, x, order, "derivatives")


def directional_derivative(f: Function, x: Tensor, v: Tensor, order: int = 1) -> Tensor:
    r"""Evaluate :math:`\frac{d^n}{dt^n} f(x + t v)` at :math:`t = 0`.

    Nested reverse mode in the scalar t of :math:`\langle f(x + t v), u \rangle`, which is linear in u; its gradient with
    respect to u is the answer, whatever the shape of f.

    Args:
        f: maps a tensor to a tensor of any shape.
        x: floating-point, any shape.
        v: the direction, shape of x.
        order: :math:`n \ge 0`.

    Returns:
        Shape of f's output.

    Raises:
        UsageError: a negative order, x or v not real, or of different shapes.
    """
    who = "directional_derivative"
    require_order(order, who)
    require_real(x, "'x'", who)
    require_real(v, "'v'", who)
    if v.shape != x.shape:
        raise UsageError(f"{who} got v of shape {tuple(v.shape)}; expected that of x, {tuple(x.shape)}.")
    keep = torch.is_grad_enabled()
    with double_backward(who):
        t = x.new_zeros(()).requires_grad_()
        output = real_output(f(ordinary(x) + t * ordinary(v)), who)
        u = torch.ones_like(output).requires_grad_()
        derivative = (output * u).sum()
        for _ in range(order):
            (derivative,) = scalar_gradient(derivative, [t], create_graph=True)
        (result,) = scalar_gradient(derivative, [u], create_graph=keep)
        return attached(result, x) if keep and x.requires_grad else result


def _derivatives(f: Function, x: Tensor, order: int, who: str) -> tuple[Tensor, ...]:
    require_real(x, "'x'", who)
    keep = torch.is_grad_enabled()
    with double_backward(who):
        (variable,) = variables(x, who)
        values = [real_output(f(variable), who)]
        if values[0].shape != x.shape:
            raise UsageError(
                f"{who} got f with an output of shape {tuple(values[0].shape)} for x of shape {tuple(x.shape)}; "
                "expected an elementwise f, with the shape of x.\n"
                "write:    directional_derivative(f, x, v, order), or gradient and hvp for a scalar f of many numbers"
            )
        if not values[0].requires_grad:
            values[0] = attached(values[0], variable)
        for _ in range(order):
            # Each output depends on its own input only, so the gradient of the sum holds every derivative.
            values += scalar_gradient(values[-1].sum(), [variable], create_graph=True)
    return tuple(values) if keep else tuple(value.detach() for value in values)


def require_order(order: int, who: str) -> None:
    """Refuse what is no order of a derivative.

    Args:
        order: what was given.
        who: the function that was called.

    Raises:
        UsageError: not a whole number, or below 0.
    """
    if isinstance(order, bool) or not isinstance(order, int) or order < 0:
        raise UsageError(f"{who} got order {order!r}; expected a whole number that is 0 (f itself) or larger.")
