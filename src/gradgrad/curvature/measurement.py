"""One measurement of a spectrum, from an operator and the vectors of the last one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from gradgrad.curvature.checked import WHO, one_of, whole_number
from gradgrad.curvature.operator import layer_shares, scale_of, underlying
from gradgrad.derivatives.operators import LinearOperator
from gradgrad.eigensolvers import EigenResult, lanczos, power_iteration
from gradgrad.errors import UsageError

Which = Literal["LA", "SA", "LM", "BE"]
LARGE = 1_000_000  # parameters beyond which many vectors would dwarf the model; a guess
COLD = 1e-3  # residual of a cold start: none of 260 missed the outermost one, at 1e-2 five did; the warm ones depend on it
GUARD = 0.3  # of a random unit vector beside the old one: no wrong answer in 180 at a residual of 1e-2 (4.3 against 3.2 products)


class Spectrum(NamedTuple):
    """What a measurement found.

    Attributes:
        eigen: eigenvalues and what vouches for them.
        metrics: by name, see :class:`gradgrad.callbacks.HessianSpectrum`.
        shares: of the vector of the largest eigenvalue, by layer.
        surprise: how much larger, relatively, a cold start found the outermost eigenvalue than the warm one; None without both.
    """

    eigen: EigenResult
    metrics: dict[str, float]
    shares: dict[str, float]
    surprise: float | None


@dataclass(frozen=True)
class Solver:
    """Settings of an eigensolver.

    Attributes:
        k: number of eigenvalues; of each end for ``BE``.
        which: as for :func:`gradgrad.eigensolvers.lanczos`.
        method: ``lanczos`` or ``power_iteration``.
        tol: relative residual.
        max_hvps: budget of products.
        block_size: products made together in one pass over the data; equal eigenvalues need as many to be all found.
        basis_size: most vectors that Lanczos keeps; None is its own choice, and little more than 2 k beyond a million parameters.
        seed: of random starts.
    """

    k: int = 1
    which: Which = "LA"
    method: Literal["lanczos", "power_iteration"] = "lanczos"
    tol: float = 1e-2
    max_hvps: int = 50
    block_size: int = 1
    basis_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no operator can be asked.

        Raises:
            UsageError: a setting out of range.
        """
        one_of("which", self.which, get_args(Which))
        one_of("method", self.method, ("lanczos", "power_iteration"))
        for setting in ("k", "max_hvps", "block_size", "basis_size"):
            whole_number(setting, getattr(self, setting), 1, optional=setting == "basis_size")
        whole_number("seed", self.seed, None)
        if not isinstance(self.tol, float | int) or not 0 < self.tol < 1:
            raise UsageError(f"{WHO} got tol {self.tol}; expected a relative residual between 0 and 1, such as 1e-2.")
        pairs = 2 * self.k if self.which == "BE" else self.k
        if self.max_hvps < pairs:
            raise UsageError(f"{WHO} got max_hvps {self.max_hvps}; expected {pairs} at least, a product for each eigenvalue.")
        least = pairs + 2 * self.block_size
        if self.basis_size is not None and self.basis_size < least:
            raise UsageError(f"{WHO} got basis_size {self.basis_size}; expected {least} at least: all pairs and two blocks.")
        if self.method == "power_iteration" and (self.which == "BE" or self.block_size > 1 or self.basis_size is not None):
            raise UsageError(
                f"{WHO} got method power_iteration with which {self.which}, block_size {self.block_size}, basis_size "
                f"{self.basis_size}.\nexpected: one end, and none of the others\nwrite:    method: lanczos"
            )

    def __call__(self, operator: LinearOperator, start: Tensor | None) -> EigenResult:
        """Solve.

        Args:
            operator: whose eigenvalues are meant.
            start: shape ``(P, b)``; None is a random vector, and then the residual is to be 1e-3 at most.

        Returns:
            At most as many eigenpairs as there are rows.
        """
        count = min(2 * self.k if self.which == "BE" else self.k, operator.size)
        basis_size, block_size = self.basis_size, min(self.block_size, operator.size)
        if basis_size is None and operator.size > LARGE:
            basis_size = 2 * count + 2 * block_size + 2  # a guess: fewer vectors, more restarts
        tol = self.tol if start is not None else min(self.tol, COLD)
        if self.method == "power_iteration":
            found = power_iteration(operator, count, self.which, tol, self.max_hvps, start, seed=self.seed)  # type: ignore[arg-type]
        else:
            found = lanczos(operator, count, self.which, tol, self.max_hvps, start, block_size, basis_size, self.seed)
        return replace(found, converged=found.residuals <= self.tol)


def guarded(vectors: Tensor, seed: int) -> Tensor:
    """Mix something random into old eigenvectors, lest a solver stay with one that is no longer the outermost.

    Args:
        vectors: orthonormal columns, shape ``(P, b)``.
        seed: of the random part, another at each measurement.

    Returns:
        Same shape.
    """
    # Drawn on the CPU: the same numbers on every device and every rank.
    noise = torch.randn(*vectors.T.shape, generator=torch.Generator().manual_seed(seed), dtype=vectors.dtype)
    noise /= torch.linalg.vector_norm(noise, dim=1, keepdim=True)
    return vectors + GUARD * noise.to(vectors.device).T


def measure(
    operator: LinearOperator, params: Mapping[str, Tensor], solver: Solver, old: Tensor | None, seed: int, check: bool
) -> Spectrum:
    """Find eigenvalues, and what they say about the training.

    Args:
        operator: of :func:`gradgrad.curvature.operator.curvature_operator`.
        params: its own.
        solver: its settings.
        old: eigenvectors of an earlier measurement, shape ``(P, b)``; None starts cold.
        seed: of the random part of the start.
        check: start cold too, and keep what is further out.

    Returns:
        The spectrum.
    """
    with operator.held():
        eigen = solver(operator, None if old is None else guarded(old.to(operator.device, operator.dtype), seed))
        matvecs, surprise = eigen.matvecs, None
        if check and old is not None:
            cold = solver(operator, None)
            matvecs += cold.matvecs
            surprise = _further_out(cold, eigen, solver.which)
            if surprise > 0:
                eigen = cold
        metrics = _eigenvalues(eigen, solver) | {"hvps": float(matvecs)}
        top = eigen.eigenvectors[:, 0]
        metrics |= _gradient(operator, eigen.eigenvectors)
        return Spectrum(eigen, metrics, layer_shares(top, params), surprise)


def _further_out(cold: EigenResult, warm: EigenResult, which: Which) -> float:
    """How much further out the cold start's eigenvalues are, at most, in units of the outermost warm one."""
    count = min(len(cold.eigenvalues), len(warm.eigenvalues))
    ahead = cold.eigenvalues[:count] - warm.eigenvalues[:count]  # both descending
    if which == "LM":
        ahead = cold.eigenvalues.abs().sort().values[-count:] - warm.eigenvalues.abs().sort().values[-count:]
    elif which == "SA":
        ahead = -ahead
    elif which == "BE":  # ceil(count / 2) from the top
        ahead[(count + 1) // 2 :] *= -1
    return float(ahead.max() / warm.eigenvalues.abs().max().clamp_min(torch.finfo(torch.float64).tiny))


def _eigenvalues(eigen: EigenResult, solver: Solver) -> dict[str, float]:
    values = eigen.eigenvalues.tolist()
    found = {"residual": float(eigen.residuals.max()), "converged": float(eigen.converged.all())}
    if solver.which != "SA":
        found["lambda_max"] = values[0]
    if solver.which in ("SA", "BE"):
        found["lambda_min"] = values[-1]
    if solver.k > 1:
        upper, lower = (values[: solver.k], values[-solver.k :]) if solver.which == "BE" else (values, [])
        found |= {f"lambda_{i}": value for i, value in enumerate(upper, 1)}
        found |= {f"lambda_min_{i}": value for i, value in enumerate(lower[::-1], 1)}
    return found


def _gradient(operator: LinearOperator, vectors: Tensor) -> dict[str, float]:
    loss, gradient = underlying(operator).loss_and_gradient()
    scale = scale_of(operator)
    gradient = gradient if scale is None else gradient * scale
    square = gradient.square().sum()
    overlap = (vectors.T @ gradient).square().sum() / square
    return {
        "loss": float(loss),
        "gradient_norm": float(square.sqrt()),
        "gradient_overlap": float(overlap) if square > 0 else 0.0,
    }
