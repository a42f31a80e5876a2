"""Some eigenpairs by the plainest method there is, one after the other."""

from typing import Literal

import torch
from torch import Tensor

from gradgrad.derivatives.operators import LinearOperator
from gradgrad.eigensolvers.basis import Basis
from gradgrad.eigensolvers.counted import Counted, check_pairs, start_rows
from gradgrad.eigensolvers.holding import holding
from gradgrad.eigensolvers.probes import gaussian, generator
from gradgrad.eigensolvers.result import EigenResult, relative
from gradgrad.errors import UsageError

STEADY = 0.01  # a product's norm that grows by less than this from step to step is near the largest magnitude: a guess
BEYOND = 1.1  # how far beyond it the shift lies: a guess


@holding
def power_iteration(
    operator: LinearOperator,
    k: int = 1,
    which: Literal["LM", "LA", "SA"] = "LM",
    tol: float = 1e-3,
    max_matvecs: int = 1000,
    start: Tensor | None = None,
    deflate: Tensor | None = None,
    seed: int = 0,
) -> EigenResult:
    r"""Find the dominant eigenpairs, :math:`v \leftarrow H v / \|H v\|`, one after the other by deflation.

    The error falls by :math:`|\lambda_2 / \lambda_1|` a step; :func:`lanczos` needs about the square root of the steps. For one
    end of the spectrum where the other one dominates, it goes on with :math:`H + \sigma I`, :math:`\sigma` a little above the
    largest magnitude seen; eigenvalues are Rayleigh quotients of H itself, so that the shift leaves no trace in them. The pairs
    are those of H in the span of all vectors found (Rayleigh and Ritz); each residual belongs to the vector that is returned.

    Two eigenvalues of one magnitude, +10 and -10, have no dominant vector: ``LM`` for one of them goes on to the end of its
    budget and says that it has not converged. ``LA``, ``SA`` and :func:`lanczos` separate them.

    Args:
        operator: P rows.
        k: number of pairs.
        which: the largest magnitudes (``LM``), the largest (``LA``) or the smallest (``SA``).
        tol: relative residual, see :class:`EigenResult`.
        max_matvecs: most products; 1000 is a guess, as power iteration may take any number.
        start: shape ``(P,)``, or ``(P, K)`` with a column for each of the first pairs; random ones by default.
        deflate: orthonormal columns to be left out, shape ``(P, d)``: pairs are then those of H between their complement.
        seed: for random vectors.

    Returns:
        The pairs.

    Raises:
        UsageError: an argument that cannot be, or a product that is not finite.
    """
    counted = Counted(operator, "power_iteration")
    check_pairs(counted, k, which, ("LM", "LA", "SA"), tol, max_matvecs)
    counted.whole(seed=seed)
    out, rows = start_rows(counted, deflate, "deflate"), start_rows(counted, start)
    if len(out) + k > counted.size:
        raise UsageError(
            f"power_iteration got k={k} and {len(out)} vectors to deflate; expected {counted.size} in all at most, the size."
        )
    overlap = counted.finite(out @ out.T)
    if (overlap - torch.eye(len(out), dtype=torch.float64)).abs().max() > 1e-3 if len(out) else False:
        raise UsageError(
            "power_iteration got vectors to deflate that are not orthonormal.\nwrite:    deflate=torch.linalg.qr(vectors).Q"
        )
    rows = torch.cat([rows[:k], gaussian(max(0, k - len(rows)), counted.like, generator(seed))])
    iteration = _Iteration(counted, which, tol, out, k, seed)
    for done, row in enumerate(rows, start=1):
        iteration.run(row[None], max_matvecs - (k - done))
    return iteration.result()


class _Iteration:
    """What is shared by the pairs: vectors that were found, their products, the largest magnitude, the shift."""

    def __init__(self, counted: Counted, which: str, tol: float, out: Tensor, k: int, seed: int) -> None:
        self.counted, self.which, self.tol = counted, which, tol
        self.target = tol / k**0.5  # Rayleigh and Ritz may add up the residuals of pairs with one eigenvalue
        self.sign = -1.0 if which == "SA" else 1.0
        self.source = generator(seed + 1)
        self.out, self.found = Basis(len(out), counted.like), Basis(k, counted.like)
        self.out.append(out)
        self.products: list[Tensor] = []
        self.norm = self.shift = 0.0

    def run(self, row: Tensor, budget: int) -> None:
        """Find one more pair.

        Args:
            row: where to start, shape ``(1, P)``; it is overwritten.
            budget: the count of products at which to stop.
        """
        size_before, residual_before = 0.0, float("inf")
        while True:
            row = self._unit(row)
            product = self.counted(row)
            self.out.orthogonalize(product)
            inside = product.clone()
            self.found.orthogonalize(inside)
            value, size, residual = self._numbers(row, inside)
            right_end = self.which == "LM" or self.shift > 0 or self.sign * value >= 0
            converged = float(relative(residual, value, self.norm, row.dtype)) <= self.target
            if (converged and right_end) or self.counted.matvecs >= budget:
                break
            wrong = self.sign * float(value) < 0.9 * float(size) or float(residual) > (1 - STEADY) * residual_before
            steady = float(size) <= (1 + STEADY) * size_before and wrong
            if self.which != "LM" and not self.shift and (converged or steady):
                self.shift = BEYOND * self.norm
                row = gaussian(1, self.counted.like, self.source)
            else:
                row = inside.mul_(self.sign).add_(row, alpha=self.shift)
            size_before, residual_before = float(size), float(residual)
        self.found.append(row)
        self.products.append(product)

    def _numbers(self, row: Tensor, product: Tensor) -> Tensor:
        # The Rayleigh quotient, the product's norm and the residual's, in one transfer.
        value = (row * product).sum()
        three = torch.stack([value, torch.linalg.vector_norm(product), torch.linalg.vector_norm(product - value * row)])
        numbers = self.counted.finite(three)
        self.norm = max(self.norm, float(numbers[1]))
        return numbers

    def _unit(self, row: Tensor) -> Tensor:
        while True:
            row = row / torch.linalg.vector_norm(row).clamp_min(torch.finfo(row.dtype).tiny)
            self.out.orthogonalize(row)
            self.found.orthogonalize(row)
            norm = torch.linalg.vector_norm(row)
            if float(norm) > 10 * torch.finfo(row.dtype).eps:
                return row.div_(norm)
            row = gaussian(1, self.counted.like, self.source)  # nothing was left: zeros, or what is found already

    def result(self) -> EigenResult:
        """Give the pairs of the operator in the span of what was found, by Rayleigh and Ritz."""
        products = torch.cat(self.products)
        projected = self.counted.finite(self.found.coefficients(products))
        values, y = torch.linalg.eigh((projected + projected.T) / 2)
        values, y = values.flip(0), y.flip(1)
        vectors = self.found.combine(y)
        weights, there = y.T.to(products), values.to(products)
        norms = self.counted.finite(torch.linalg.vector_norm(weights @ products - there[:, None] * vectors, dim=1))
        residuals = relative(norms, values, max(self.norm, float(values.abs().max())), products.dtype)
        converged = residuals <= self.tol
        values = values / self.counted.unit
        return EigenResult(values, vectors.T, residuals, converged, self.counted.matvecs, self.counted.seconds)
