"""Derivatives of all orders at once, by Taylor arithmetic: a function is run once, on a truncated power series."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import resolve_name

from gradgrad.derivatives.double_backward import full_precision
from gradgrad.derivatives.nth import require_order
from gradgrad.derivatives.params import attached, require_real
from gradgrad.derivatives.taylor_rules import ALIASES, BLIND, LINEAR, RULES, VIEWS
from gradgrad.derivatives.truncated import Truncated, linear_map, series_in
from gradgrad.errors import UsageError, some

NESTED = (
    "taylor got the series of another call of taylor; expected one variable at a time, for there are no series of series.\n"
    "write:    gradgrad.derivatives.derivatives(f, x, order) for one of the two calls"
)


def taylor(
    f: Callable[[Any], Any], x: Tensor, order: int, direction: Tensor | None = None, coefficients: bool = False
) -> tuple[Tensor, ...]:
    r"""Evaluate :math:`\frac{d^k}{dt^k} f(x + t v)` at :math:`t = 0` for all :math:`k \le n` in one run of ``f``.

    ``f`` gets the truncated series :math:`x + t v`, and every operation in it sends series to series, by the recurrences of
    Griewank and Walther, Evaluating Derivatives (2008), chapter 13. Order n costs :math:`O(n^2)`; nested differentiation
    multiplies its cost with every order.

    Args:
        f: made of operations that have a Taylor rule: arithmetic, ``matmul``, ``linear``, powers, exponential, trigonometric and
            hyperbolic functions, the smooth activations, sums and means, and what only moves numbers around.
        x: floating-point, any shape.
        order: :math:`n \ge 0`.
        direction: v, shape of x. None means ones, so that for an elementwise ``f`` the results are its derivatives
            :math:`f^{(k)}(x)`; for a module applied to a column too.
        coefficients: divide by :math:`k!`, which gives the Taylor coefficients.

    Returns:
        n + 1 tensors of the shape of f's output; unit of the k-th: that of f over the k-th power of that of t. They are
        differentiable with respect to x, to v and to what ``f`` captures. An ``f`` that ignores its argument has derivatives of 0
        (a lone number is taken for one at every x, unless there is a direction). Powers that are not whole give NaN at a base of
        0, also where the first derivatives exist.

    Raises:
        UsageError: an operation without a Taylor rule (in-place methods, in-place operators on views, kinks such as ReLU, and
            what looks at values), ``taylor`` inside ``taylor`` where the inner function uses the outer argument, a negative
            order or one whose factorial overflows, x or v not real or of different shapes, an output that is no tensor.
    """
    _require(x, order, direction, coefficients)
    mark = object()
    with full_precision():
        output = f(_seed(x, order, direction, mark) if order > 0 else x)
    if isinstance(output, Series) and output.mark is mark:
        orders = list(output.orders)
    elif isinstance(output, Tensor):
        value = output.expand(x.shape) if direction is None and output.ndim == 0 else output
        orders = [value, *(torch.zeros_like(value) for _ in range(order))]
    else:
        raise UsageError(_no_result(output))
    if x.requires_grad and torch.is_grad_enabled():
        orders = [c if c.requires_grad else attached(c, x) for c in orders]
    return tuple(orders if coefficients else (c * float(math.factorial(k)) for k, c in enumerate(orders)))


def _require(x: Tensor, order: int, direction: Tensor | None, coefficients: bool) -> None:
    if isinstance(x, Series) or isinstance(direction, Series):
        raise UsageError(NESTED)
    require_real(x, "'x'", "taylor")
    require_order(order, "taylor")
    if not coefficients and math.factorial(order) > torch.finfo(x.dtype).max:
        raise UsageError(f"taylor got order {order}, of which the factorial overflows {x.dtype}; write coefficients=True.")
    if direction is None:
        return
    require_real(direction, "'direction'", "taylor")
    if direction.shape != x.shape:
        raise UsageError(f"taylor got a direction of shape {tuple(direction.shape)}; expected that of x, {tuple(x.shape)}.")


def _seed(x: Tensor, order: int, direction: Tensor | None, mark: object) -> "Series":
    velocity = torch.ones_like(x) if direction is None else direction.to(x.dtype)
    return Series(torch.cat([x[None], velocity[None], x.new_zeros(order - 1, *x.shape)]), mark)


def _no_result(output: object) -> str:
    if isinstance(output, Series):
        return NESTED
    return f"taylor got f with an output of type {type(output).__name__}; expected a tensor."


class NoTaylorRuleError(UsageError, AttributeError):
    """An operation that series do not know; to ``hasattr`` it is a missing attribute.

    Args:
        operation: its name.
    """

    def __init__(self, operation: str) -> None:
        super().__init__(
            f"taylor got {operation}, which has no Taylor rule.\n"
            f"expected: one of {some(sorted(RULES), most=40)}, or what only moves numbers around\n"
            "write:    gradgrad.derivatives.derivatives(f, x, order), which nests reverse mode and knows every operation"
        )


def _apply(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Answer a torch function of which some argument is a series."""
    name = ALIASES.get(function.__name__, function.__name__)
    found = list(series_in((args, kwargs)))
    if any(other.mark is not found[0].mark for other in found):
        raise UsageError(NESTED)
    kwargs = dict(kwargs)
    args = (*(kwargs.pop(word) for word in ("input", "tensors") if word in kwargs), *args)
    in_first = list(series_in(args[:1]))
    # In-place variants have names of their own, with an underscore at the end, and hence no rule.
    refused = [kwargs.pop(word, None) for word in ("out", "inplace", "rounding_mode")]
    if all(option is None or option is False for option in refused):
        if name in RULES:
            return RULES[name](*args, **kwargs)
        if name in LINEAR and len(in_first) == len(found):
            result = linear_map(function, *args, **kwargs)
            if name in VIEWS:
                for one in series_in((found, result)):
                    one.shared = True
            return result
        if name in BLIND and len(in_first) == len(found) == 1:
            return function(found[0].orders[0], *args[1:], **kwargs)
    raise NoTaylorRuleError(resolve_name(function) or f"{function.__module__}.{function.__name__}")


class Series(Truncated):
    """A truncated power series that stands in for a tensor inside the ``f`` of :func:`taylor`.

    Torch hands its functions over to ``__torch_function__``; methods and operators are looked up in the same table. What looks at
    values, such as a comparison, has no rule.
    """

    __array_ufunc__ = None  # NumPy's numbers leave operators to us
    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _apply(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        method = getattr(torch.Tensor, name, None)
        if method is None or name.startswith("__"):
            raise AttributeError(f"a Taylor series has no attribute {name!r}")
        if ALIASES.get(name, name) not in RULES.keys() | LINEAR | BLIND:
            raise NoTaylorRuleError(f"torch.Tensor.{name}")
        return lambda *args, **kwargs: _apply(method, (self, *args), kwargs)

    @property
    def shape(self) -> torch.Size:
        """Shape of the values, without the orders."""
        return self.orders.shape[1:]

    @property
    def ndim(self) -> int:
        """Number of axes of the values."""
        return self.orders.ndim - 1

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the coefficients."""
        return self.orders.dtype

    @property
    def device(self) -> torch.device:
        """Where the coefficients are."""
        return self.orders.device

    @property
    def requires_grad(self) -> bool:
        """Whether autograd records the coefficients."""
        return self.orders.requires_grad

    @property
    def T(self) -> Any:  # noqa: N802 -- the tensor's name
        """All axes in reverse."""
        return self.permute(*reversed(range(self.ndim)))

    @property
    def mT(self) -> Any:  # noqa: N802 -- the tensor's name
        """The last two axes exchanged."""
        return self.transpose(-2, -1)

    def __len__(self) -> int:
        return len(self.orders[0])

    def __iter__(self) -> Any:
        return iter(self.unbind())


def _operator(function: Callable[..., Any], reflected: bool = False) -> Callable[..., Any]:
    if reflected:
        return lambda self, other: _apply(function, (other, self), {})
    return lambda self, *others: _apply(function, (self, *others), {})


_BINARY: dict[str, Callable[..., Any]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "truediv": torch.div, "pow": torch.pow, "matmul": torch.matmul,
    "floordiv": torch.floor_divide, "mod": torch.remainder,
}  # fmt: skip


def _in_place(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Series, other: Any) -> Series:
        if self.shared:  # a view: torch would write through it, and series are copies
            raise NoTaylorRuleError(f"torch.Tensor.__i{name}__ on a tensor with views")
        self.orders = _apply(function, (self, other), {}).expand(self.shape).orders
        return self

    return method


for _name, _function in _BINARY.items():
    setattr(Series, f"__{_name}__", _operator(_function))
    setattr(Series, f"__i{_name}__", _in_place(_name, _function))
    setattr(Series, f"__r{_name}__", _operator(_function, reflected=True))
# Most of these have no rule, and are here for the message; object has an __eq__ of its own.
for _name in ("eq", "ne", "lt", "le", "gt", "ge", "neg", "abs", "getitem", "setitem", "bool", "float", "int", "contains"):
    setattr(Series, f"__{_name}__", _operator(getattr(torch.Tensor, f"__{_name}__")))
