"""Which operations truncated series know, and how: one table, from torch's name to a rule.

A rule takes what the operation takes, with series in the place of one or more tensors, and gives a series. Where a composition of
other rules will do, the rule is written in torch itself.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- everybody's name for it
from torch import Tensor

from gradgrad.derivatives import series
from gradgrad.derivatives.truncated import Operand, Truncated, aligned, first_series, lifted, promoted, value_of
from gradgrad.errors import UsageError


def _add(a: Operand, b: Operand, alpha: float = 1) -> Truncated:
    left, right = promoted(a, b)
    right = right if alpha == 1 else alpha * right
    if isinstance(a, Truncated) and isinstance(b, Truncated):
        return a.like(left + right)
    # A constant changes order 0 only.
    stack = left if isinstance(a, Truncated) else right
    value = left[0] + right if isinstance(a, Truncated) else left + right[0]
    return first_series(a, b).like(torch.cat([value[None], stack[1:].expand(-1, *value.shape)]))


def _mul(a: Operand, b: Operand) -> Truncated:
    left, right = promoted(a, b)
    both = isinstance(a, Truncated) and isinstance(b, Truncated)
    return first_series(a, b).like(series.multiply(left, right) if both else left * right)


def _div(a: Operand, b: Operand) -> Truncated:
    if not isinstance(b, Truncated):
        left, right = promoted(a, b)
        return first_series(a).like(left / right)
    return b.like(series.divide(*promoted(lifted(a, b), b)))


def _matmul(a: Operand, b: Operand) -> Any:
    if 0 in (a.ndim, b.ndim):
        return torch.matmul(value_of(a), value_of(b))  # raises torch's own error
    if a.ndim == 1:
        return torch.matmul(a.unsqueeze(0), b).squeeze(-1 if b.ndim == 1 else -2)
    if b.ndim == 1:
        return torch.matmul(a, b.unsqueeze(-1)).squeeze(-1)
    left, right = aligned(a, b)
    both = isinstance(a, Truncated) and isinstance(b, Truncated)
    return first_series(a, b).like(series.multiply(left, right, torch.matmul) if both else torch.matmul(left, right))


def _linear(x: Operand, weight: Operand, bias: Operand = None) -> Any:
    product = torch.matmul(x, weight.t())
    return product if bias is None else product + bias


def _addmm(shift: Operand, a: Operand, b: Operand, *, beta: float = 1, alpha: float = 1) -> Any:
    return beta * shift + alpha * torch.matmul(a, b)


def _pow(a: Operand, b: Operand) -> Any:
    if not isinstance(a, Truncated) or isinstance(b, Truncated):
        return _real_power(a, b)
    if not isinstance(b, Tensor):
        return _whole_power(a, int(b)) if float(b).is_integer() else _real_power(a, b)
    if b.requires_grad or bool((b != b.round()).any()):
        return _real_power(a, b)
    result = _mul(a, torch.zeros_like(b))  # for its shape
    for exponent in set(b.flatten().tolist()):
        power, others = aligned(_whole_power(a, int(exponent)), result)
        result = a.like(torch.where(b == exponent, power, others))
    return result


def _whole_power(a: Any, exponent: int) -> Any:
    """Multiply repeatedly: exact, also at 0, where a logarithm is not."""
    if exponent < 0:
        return 1 / _whole_power(a, -exponent)
    if exponent == 0:
        return a.like(series.constant(torch.ones_like(a.orders[0]), a.orders))
    if exponent == 1:
        return a
    half = _whole_power(a, exponent // 2)
    return half * half * a if exponent % 2 else half * half


def _real_power(a: Operand, b: Operand) -> Truncated:
    start = torch.pow(value_of(a), value_of(b))
    if not isinstance(a, Truncated):
        a = torch.as_tensor(a, dtype=start.dtype, device=start.device)
        a = torch.where(a == 0, 1, a)  # 0 ** b is constant where it is finite
    exponent = b * torch.log(a)
    return first_series(exponent).like(series.exponential(start, series.derivative(exponent.orders)))


def _softplus(x: Any, beta: float = 1, threshold: float = 20) -> Any:
    value = x.orders[0]
    smooth = series.antiderivative(F.softplus(value, beta, threshold), (beta * x).sigmoid().orders, x.orders)
    return x.like(torch.where(beta * value > threshold, x.orders, smooth))  # torch is linear there


def _log_sigmoid(x: Any) -> Any:
    return x.like(series.antiderivative(F.logsigmoid(x.orders[0]), (-x).sigmoid().orders, x.orders))


def _gelu(x: Any, approximate: str = "none") -> Any:
    if approximate == "tanh":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def _dropout(x: Truncated, p: float = 0.5, training: bool = True) -> Truncated:
    if training and p > 0:
        raise UsageError("taylor got dropout in training mode, of which every call is another function.\nwrite:    module.eval()")
    return x


def _circular(a: Tensor) -> tuple[Tensor, Tensor]:
    return series.sine_and_cosine(a[0].sin(), a[0].cos(), -1, a)


def _hyperbolic(a: Tensor) -> tuple[Tensor, Tensor]:
    return series.sine_and_cosine(a[0].sinh(), a[0].cosh(), 1, a)


def _exp(a: Tensor) -> Tensor:
    return series.exponential(a[0].exp(), series.derivative(a))


ON_STACKS: dict[str, Callable[[Tensor], Tensor]] = {
    "cos": lambda a: _circular(a)[1],
    "cosh": lambda a: _hyperbolic(a)[1],
    "erf": series.error_function,
    "exp": _exp,
    "expm1": lambda a: torch.cat([a[:1].expm1(), _exp(a)[1:]]),
    "log": lambda a: series.logarithm(a[0].log(), a),
    "log1p": lambda a: series.logarithm(a[0].log1p(), torch.cat([1 + a[:1], a[1:]])),
    "neg": torch.neg,
    "sigmoid": series.sigmoid,
    "sin": lambda a: _circular(a)[0],
    "sinh": lambda a: _hyperbolic(a)[0],
    "sqrt": series.square_root,
    "square": lambda a: series.multiply(a, a),
    "tanh": series.tanh,
}


def _on_stack(function: Callable[[Tensor], Tensor]) -> Callable[..., Truncated]:
    def rule(x: Truncated) -> Truncated:
        return x.like(function(x.orders))

    return rule


RULES: dict[str, Callable[..., Any]] = {name: _on_stack(function) for name, function in ON_STACKS.items()} | {
    "add": _add,
    "addmm": _addmm,
    "bmm": _matmul,
    "div": _div,
    "dropout": _dropout,
    "gelu": _gelu,
    "linear": _linear,
    "log_sigmoid": _log_sigmoid,
    "matmul": _matmul,
    "mm": _matmul,
    "mul": _mul,
    "pow": _pow,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / torch.sqrt(x),
    "rsub": lambda a, b, alpha=1: _add(b, a, -alpha),
    "silu": lambda x: x * torch.sigmoid(x),
    "softplus": _softplus,
    "sub": lambda a, b, alpha=1: _add(a, b, -alpha),
}

ALIASES = {
    "concat": "cat", "concatenate": "cat", "divide": "div", "dot": "matmul", "multiply": "mul", "mv": "matmul", "negative": "neg",
    "special_erf": "erf", "special_expit": "sigmoid", "special_expm1": "expm1", "special_log1p": "log1p", "subtract": "sub",
    "true_divide": "div",
}  # fmt: skip

# Linear, and without a constant: they act on every coefficient alike.
LINEAR = frozenset({
    "__getitem__", "bfloat16", "broadcast_to", "cat", "chunk", "clone", "contiguous", "cumsum", "double", "expand", "flatten",
    "flip", "float", "half", "mean", "movedim", "narrow", "permute", "repeat", "reshape", "roll", "select", "split", "squeeze",
    "stack", "sum", "swapaxes", "t", "tile", "to", "transpose", "unbind", "unflatten", "unsqueeze", "view",
})  # fmt: skip

# Those that give new numbers; of the others torch gives views.
COPIES = frozenset({
    "bfloat16", "cat", "clone", "cumsum", "double", "flip", "float", "half", "mean", "repeat", "roll", "stack", "sum", "tile",
})  # fmt: skip
VIEWS = LINEAR - COPIES

# They look at shape and dtype only, and answer with a plain tensor, a number or a truth value.
BLIND = frozenset({
    "dim", "empty_like", "full_like", "is_complex", "is_floating_point", "new_empty", "new_full", "new_ones", "new_tensor",
    "new_zeros", "numel", "ones_like", "size", "zeros_like",
})  # fmt: skip
