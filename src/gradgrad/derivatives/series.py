r"""Arithmetic of truncated power series, on stacks of normalized coefficients.

A series :math:`a(t) = \sum_k a_k t^k`, :math:`a_k = a^{(k)}(0) / k!`, is one tensor of shape ``(K + 1, *shape)``, the order
leading, :math:`K \ge 1`. All recurrences are those of Griewank and Walther, Evaluating Derivatives (2008), chapter 13, at
:math:`O(K^2)` multiplications per element. They are written forwards: a coefficient, once known, is sent to all later orders
at once, so that an order costs a handful of tensor operations however many orders there are. Nothing is written in place,
hence autograd can differentiate every result. The unit of order k is the function's over the k-th power of t's.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def constant(value: Tensor, like: Tensor) -> Tensor:
    """Make the series of what does not depend on t.

    Args:
        value: any shape.
        like: a series with the wanted number of orders.

    Returns:
        Shape ``(K + 1, *value.shape)``, zero from order 1 on.
    """
    return torch.cat([value[None], value.new_zeros(len(like) - 1, *value.shape)])


def derivative(a: Tensor) -> Tensor:
    """Differentiate with respect to t.

    Args:
        a: orders 0 to K.

    Returns:
        Orders 0 to K - 1.
    """
    return a[1:] * _count(a[1:])


def integral(start: Tensor, rate: Tensor) -> Tensor:
    """Integrate with respect to t.

    Args:
        start: the value at t = 0.
        rate: the derivative, orders 0 to K - 1.

    Returns:
        Orders 0 to K.
    """
    return torch.cat([start[None], rate / _count(rate)])


def _count(stack: Tensor) -> Tensor:
    return torch.arange(1, len(stack) + 1, dtype=stack.dtype, device=stack.device).view(-1, *[1] * (stack.ndim - 1))


def multiply(a: Tensor, b: Tensor, product: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> Tensor:
    r"""Multiply two series, :math:`y_k = \sum_{j=0}^k a_j b_{k-j}`.

    Args:
        a: shape ``(K + 1, ...)``.
        b: as many orders, and as many axes, as a.
        product: any bilinear map that broadcasts leading axes; ``torch.matmul`` multiplies series of matrices.

    Returns:
        Shape ``(K + 1, ...)``.
    """
    rest = product(a[0], b)
    y = [rest[0]]
    for coefficient in a[1:]:
        rest = rest[1:] + product(coefficient, b[: len(rest) - 1])
        y.append(rest[0])
    return torch.stack(y)


def divide(a: Tensor, b: Tensor) -> Tensor:
    r"""Divide two series, :math:`y_k = (a_k - \sum_{j<k} y_j b_{k-j}) / b_0`.

    Args:
        a: shape ``(K + 1, ...)``.
        b: as many orders, and as many axes, as a.

    Returns:
        Shape ``(K + 1, ...)``.
    """
    rest = a
    y = [rest[0] / b[0]]
    while len(rest) > 1:
        rest = rest[1:] - y[-1] * b[1 : len(rest)]
        y.append(rest[0] / b[0])
    return torch.stack(y)


def antiderivative(start: Tensor, slope: Tensor, a: Tensor) -> Tensor:
    r"""Solve :math:`y' = g a'` where g is known, :math:`y_k = \frac{1}{k} \sum_{j=1}^k j a_j g_{k-j}`.

    Args:
        start: :math:`y_0`.
        slope: g, the derivative of y with respect to a, orders 0 to K.
        a: orders 0 to K.

    Returns:
        Orders 0 to K.
    """
    return integral(start, multiply(slope[:-1], derivative(a)))


def flow(start: Tensor, weight: Tensor, feedback: Callable[[Sequence[Tensor]], Tensor], rate: Tensor) -> Tensor:
    """Solve y' = w r where w depends on y itself, so that orders are only known one by one.

    Args:
        start: order 0 of y.
        weight: order 0 of w.
        feedback: gives order k of w from orders 0 to k of y, k at least 1.
        rate: r, orders 0 to K - 1.

    Returns:
        Orders 0 to K of y.
    """
    rest = weight * rate
    y = [start, rest[0]]
    while len(rest) > 1:
        rest = rest[1:] + feedback(y) * rate[: len(rest) - 1]
        y.append(rest[0] / len(y))
    return torch.stack(y)


def _mirrored(c: Sequence[Tensor]) -> Tensor | float:
    """Sum c_i c_{n-1-i}, every pair once; 0 without terms."""
    half = len(c) // 2
    pairs = sum((left * right for left, right in zip(c[:half], reversed(c), strict=False)), start=0.0)
    return 2 * pairs + c[half].square() if len(c) % 2 else 2 * pairs


def exponential(start: Tensor, rate: Tensor) -> Tensor:
    r"""Solve :math:`y' = y r`: exp with :math:`r = a'`, the power :math:`a^b` with :math:`r = (b \log a)'`.

    Args:
        start: :math:`y_0`.
        rate: r, orders 0 to K - 1.

    Returns:
        Orders 0 to K.
    """
    return flow(start, start, lambda y: y[-1], rate)


def logarithm(start: Tensor, a: Tensor) -> Tensor:
    r"""Solve :math:`y' = a' / a`.

    Args:
        start: :math:`\log a_0`, or log1p of something smaller.
        a: orders 0 to K.

    Returns:
        Orders 0 to K.
    """
    return integral(start, divide(derivative(a), a[:-1]))


def square_root(a: Tensor) -> Tensor:
    r"""Solve :math:`y^2 = a`, :math:`y_k = (a_k - \sum_{0<j<k} y_j y_{k-j}) / 2 y_0`.

    Args:
        a: orders 0 to K.

    Returns:
        Orders 0 to K.
    """
    y = [a[0].sqrt()]
    for coefficient in a[1:]:
        y.append((coefficient - _mirrored(y[1:])) / (2 * y[0]))
    return torch.stack(y)


def sine_and_cosine(sine: Tensor, cosine: Tensor, sign: int, a: Tensor) -> tuple[Tensor, Tensor]:
    r"""Solve :math:`s' = c a', c' = \pm s a'` as one equation of pairs.

    Args:
        sine: :math:`s_0`.
        cosine: :math:`c_0`.
        sign: -1 for sine and cosine, +1 for the hyperbolic ones.
        a: orders 0 to K.

    Returns:
        Orders 0 to K of s and of c.
    """

    def turned(y: Sequence[Tensor]) -> Tensor:
        return torch.stack([y[-1][1], sign * y[-1][0]])

    start = torch.stack([sine, cosine])
    s, c = flow(start, turned([start]), turned, derivative(a)[:, None]).unbind(1)
    return s, c


def _quadratic(start: Tensor, weight: Tensor, slope: Tensor, a: Tensor) -> Tensor:
    """Solve y' = (w_0 + s d - d^2) a' with d = y - y_0: tanh and sigmoid, expanded around their start."""
    return flow(start, weight, lambda y: slope * y[-1] - _mirrored(y[1:-1]), derivative(a))


def tanh(a: Tensor) -> Tensor:
    """Solve y' = (1 - y^2) a'.

    Args:
        a: orders 0 to K.

    Returns:
        Orders 0 to K.
    """
    start = a[0].tanh()
    return _quadratic(start, 1 - start.square(), -2 * start, a)


def sigmoid(a: Tensor) -> Tensor:
    """Solve y' = y (1 - y) a'.

    Args:
        a: orders 0 to K.

    Returns:
        Orders 0 to K.
    """
    start = a[0].sigmoid()
    # 1 - y cancels where y is close to 1, sigmoid(-a) does not.
    return _quadratic(start, start * (-a[0]).sigmoid(), 1 - 2 * start, a)


def error_function(a: Tensor) -> Tensor:
    r"""Solve :math:`y' = \frac{2}{\sqrt\pi} e^{-a^2} a'`.

    Args:
        a: orders 0 to K.

    Returns:
        Orders 0 to K.
    """
    bell = exponential((-a[0].square()).exp(), -derivative(multiply(a, a)))
    return antiderivative(a[0].erf(), 2 / math.sqrt(math.pi) * bell, a)
