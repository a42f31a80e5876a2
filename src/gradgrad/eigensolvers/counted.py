"""An operator that counts its products, and the checks that all solvers share."""

import math
import time
from numbers import Real
from operator import index

import torch
from torch import Tensor

from gradgrad.derivatives.operators import LinearOperator
from gradgrad.errors import UsageError

MEMORY = 2**30  # bytes that what is done at once may take: a guess
WINDOW = 2.0**20  # a first product between this and its inverse is left as it is: a guess, far from 2^63, where squares end


class Counted:
    """A linear operator that is applied to rows, with a count of products and a clock that runs from here on.

    Squares of numbers below 1e-19 or beyond 1e19 are lost in float32. Where the first product that is not 0 is far from 1, all
    are multiplied by the power of two that brings it there, which rounds nothing; a solver divides its results by it.

    Args:
        operator: symmetric.
        who: the solver, for messages.

    Attributes:
        matvecs: products with one vector so far.
        unit: the power of two that products are multiplied by; 1 until one is seen that is not 0.
        like: one vector of zeros in the operator's dtype and on its device, shape ``(P,)``, without memory of its own.

    Raises:
        UsageError: not a linear operator, or one in half precision.
    """

    def __init__(self, operator: LinearOperator, who: str) -> None:
        if not isinstance(operator, LinearOperator):
            raise UsageError(
                f"{who} got a {type(operator).__name__}; expected a LinearOperator.\n"
                "write:    gradgrad.derivatives.DenseOperator(matrix), or HessianOperator(loss, params, batches)"
            )
        if operator.dtype not in (torch.float32, torch.float64):
            raise UsageError(
                f"{who} got an operator in {operator.dtype}; expected float32 or float64, in which a residual means something."
            )
        self.who, self.size, self.matvecs = who, operator.size, 0
        self.like = torch.zeros((), dtype=operator.dtype, device=operator.device).expand(operator.size)
        self.unit, self._measured = 1.0, False
        self._operator = operator
        self._began = time.perf_counter()

    def room(self, vectors: int) -> int:
        """Say how many things of some vectors each fit into ``MEMORY``, one at least.

        Args:
            vectors: that each of them takes.

        Returns:
            Their number.
        """
        return max(1, MEMORY // (vectors * self.size * self.like.element_size()))

    def whole(self, **arguments: int) -> None:
        """Refuse what is no whole number.

        Args:
            **arguments: their values.

        Raises:
            UsageError: one that is none.
        """
        for name, value in arguments.items():
            try:
                index(value)
            except TypeError:
                raise UsageError(f"{self.who} got {name}={value!r}; expected a whole number.") from None

    @property
    def seconds(self) -> float:
        """Wall time since the beginning."""
        return time.perf_counter() - self._began

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply.

        Args:
            rows: shape ``(K, P)``.

        Returns:
            Shape ``(K, P)``, its own memory, in units of ``1 / unit``.
        """
        self.matvecs += len(rows)
        products = self._operator.matmat(rows.T).detach().T
        if not self._measured and len(rows):
            self._measure(float(products.abs().amax()))
        if self.unit != 1:
            return (products * self.unit).contiguous()
        return (
            products.clone(memory_format=torch.contiguous_format)
            if products.data_ptr() == rows.data_ptr()
            else products.contiguous()
        )

    def _measure(self, largest: float) -> None:
        self._measured = largest != 0
        if 0 < largest < math.inf and not 1 / WINDOW <= largest <= WINDOW:
            self.unit = 2.0 ** max(-126, min(126, 1 - math.frexp(largest)[1]))  # a number in float32

    def finite(self, numbers: Tensor) -> Tensor:
        """Bring a few numbers to the CPU, and refuse NaN there.

        Args:
            numbers: made of products.

        Returns:
            The same in float64.

        Raises:
            UsageError: NaN or infinity.
        """
        there = numbers.to("cpu").to(torch.float64)
        if not there.isfinite().all():
            raise UsageError(
                f"{self.who} got NaN or infinity from product {self.matvecs} of the operator; expected finite numbers.\n"
                "the loss or its second derivative is not finite at these parameters"
            )
        return there


def check_pairs(counted: Counted, k: int, which: str, known: tuple[str, ...], tol: float, max_matvecs: int) -> None:
    """Check what all eigensolvers are asked.

    Args:
        counted: the operator.
        k: number of pairs.
        which: which of them.
        known: what is allowed.
        tol: relative residual.
        max_matvecs: most products.

    Raises:
        UsageError: one that cannot be.
    """
    who = counted.who
    counted.whole(k=k, max_matvecs=max_matvecs)
    if not 1 <= k <= counted.size:
        raise UsageError(f"{who} got k={k}; expected 1 to {counted.size}, the operator's size.")
    if which not in known:
        raise UsageError(f"{who} got which={which!r}; expected one of {', '.join(known)}.")
    if not (isinstance(tol, Real) and tol > 0 and math.isfinite(tol)):
        raise UsageError(f"{who} got tol={tol!r}; expected a positive relative residual, such as 1e-3.")
    if max_matvecs < k:
        raise UsageError(f"{who} got max_matvecs={max_matvecs}; expected {k} at least: every pair takes a product.")


def start_rows(counted: Counted, start: Tensor | None, what: str = "start") -> Tensor:
    """Give start vectors as rows.

    Args:
        counted: the operator.
        start: shape ``(P,)`` or ``(P, K)``, any float dtype and device, or None.
        what: its name, for messages.

    Returns:
        Shape ``(K, P)`` in the operator's dtype and on its device; K is 0 without any.

    Raises:
        UsageError: another shape, complex numbers, or such that are not finite.
    """
    if start is None:
        return counted.like.new_empty(0, counted.size)
    if not isinstance(start, Tensor) or start.dim() not in (1, 2) or start.shape[0] != counted.size:
        shape = tuple(start.shape) if isinstance(start, Tensor) else type(start).__name__
        raise UsageError(f"{counted.who} got {what} of shape {shape}; expected ({counted.size},) or ({counted.size}, K).")
    if start.is_complex():
        raise UsageError(f"{counted.who} got {what} in {start.dtype}; expected real numbers.")
    rows = (start if start.dim() == 2 else start.unsqueeze(1)).detach().T.to(counted.like)
    if rows.numel() and not math.isfinite(rows.abs().amax()):  # several times as fast as `isfinite` of each number
        raise UsageError(f"{counted.who} got {what} with NaN or infinity; expected finite numbers.")
    return rows.contiguous()
