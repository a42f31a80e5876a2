"""How the eigenvalues are distributed, by stochastic Lanczos quadrature."""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from gradgrad.derivatives.operators import LinearOperator
from gradgrad.eigensolvers.basis import Basis
from gradgrad.eigensolvers.counted import Counted
from gradgrad.eigensolvers.holding import holding
from gradgrad.eigensolvers.probes import generator, rademacher
from gradgrad.errors import UsageError

MARGIN = 6  # widths of a Gaussian between the outermost node and the end of the grid; beyond is 1e-9 of its mass


@dataclass(frozen=True)
class SpectralDensity:
    r"""A density of eigenvalues, :math:`\phi(t) \approx \frac1P \sum_i \delta(t - \lambda_i)`, with mass 1.

    Any function of the spectrum comes from nodes and weights: ``(weights * f(nodes)).sum(1).mean() * P`` estimates the trace of
    f(H).

    Attributes:
        grid: eigenvalues at which the density is known, evenly spaced, shape ``(grid_points,)``, float64 on the CPU.
        density: per unit of eigenvalue, shape ``(grid_points,)``, likewise.
        nodes: of each probe's quadrature, shape ``(probes, steps)``, likewise.
        weights: theirs, not negative; each row sums to 1. 0 after a probe whose space was exhausted early.
        width: standard deviation of the Gaussians by which the density is broadened.
        matvecs: products of the operator with one vector.
        seconds: wall time.
    """

    grid: Tensor
    density: Tensor
    nodes: Tensor
    weights: Tensor
    width: float
    matvecs: int
    seconds: float


@holding
def spectral_density(
    operator: LinearOperator,
    probes: int = 10,
    steps: int = 80,
    grid_points: int = 1024,
    width: float | None = None,
    block: int | None = None,
    seed: int = 0,
) -> SpectralDensity:
    r"""Estimate the density of eigenvalues by stochastic Lanczos quadrature.

    Each random probe's Lanczos process with full orthogonalization gives a Gaussian quadrature for the density that the probe
    sees; their mean is broadened, :math:`\phi(t) = \frac1n \sum_{l,i} w_{li} N(t; \theta_{li}, \sigma^2)`
    [Ubaru, Chen & Saad 2017; Ghorbani, Krishnan & Xiao 2019]. Moments of degree up to 2 m - 1 of what a probe sees are exact.
    The probes of a block run side by side, each in its own space, one product with all of them per step: over micro-batches
    that is one pass over the data per step. Memory: ``block * steps * P`` numbers.

    Args:
        operator: P rows.
        probes: random sign vectors; 10 as in Ghorbani et al.
        steps: m, nodes per probe; 80 is what google/spectral-density takes for networks (90 in the paper).
        grid_points: of the density; 1024 gives three points per default width.
        width: standard deviation of the Gaussians; by default sqrt(1e-5) of the spectrum's range, as in google/spectral-density.
        block: probes at a time; by default as many as have room in 1 GiB (a guess), one at least.
        seed: for the probes.

    Returns:
        The density.

    Raises:
        UsageError: an argument that cannot be, or a product that is not finite.
    """
    counted = Counted(operator, "spectral_density")
    positive = {"probes": probes, "steps": steps, "grid_points": grid_points, "block": 1 if block is None else block}
    counted.whole(**positive, seed=seed)
    for name, value in positive.items():
        if value < 1:
            raise UsageError(f"spectral_density got {name}={value}; expected 1 or more.")
    steps = min(steps, counted.size)
    block = block or counted.room(steps)
    source = generator(seed)
    nodes, weights = [], []
    for first in range(0, probes, block):
        starts = rademacher(min(block, probes - first), counted.like, source).div_(math.sqrt(counted.size))
        for projected in _tridiagonals(counted, starts, steps):
            values, y = torch.linalg.eigh(projected)
            nodes.append(values)
            weights.append(y[0].square())
    at, of = torch.stack(nodes) / counted.unit, torch.stack(weights)
    grid, density, sigma = _broadened(at, of, grid_points, width)
    return SpectralDensity(grid, density, at, of, sigma, counted.matvecs, counted.seconds)


def _tridiagonals(counted: Counted, rows: Tensor, steps: int) -> Tensor:
    # One Lanczos process for each row, all of them a step at a time; shape (rows, steps, steps).
    bases = [Basis(steps, counted.like) for _ in rows]
    diagonal = torch.zeros(steps, len(rows), dtype=torch.float64)
    beside = torch.zeros(steps, len(rows), dtype=torch.float64)
    norm = torch.zeros(len(rows), dtype=torch.float64)
    going = torch.ones(len(rows), dtype=torch.bool)
    for step in range(steps):
        for basis, row in zip(bases, rows, strict=True):
            basis.append(row[None])
        products = counted(rows)
        sizes = torch.linalg.vector_norm(products, dim=1)
        along = [basis.orthogonalize(row[None])[-1, 0] for basis, row in zip(bases, products, strict=True)]
        remainders = torch.linalg.vector_norm(products, dim=1)
        size, alpha, beta = counted.finite(torch.stack([sizes, torch.stack(along), remainders]))
        norm = torch.maximum(norm, size)
        # A probe whose space is exhausted goes on with rounding; its nodes repeat the first one and weigh nothing.
        diagonal[step] = torch.where(going, alpha, diagonal[0])
        going &= beta > 10 * torch.finfo(rows.dtype).eps * norm
        beside[step] = torch.where(going, beta, 0.0)
        if not going.any():
            diagonal[step + 1 :] = diagonal[0]
            break
        rows = products / remainders.clamp_min(torch.finfo(rows.dtype).tiny)[:, None]
    off = torch.diag_embed(beside.T[:, :-1], 1) + torch.diag_embed(beside.T[:, :-1], -1)
    return torch.diag_embed(diagonal.T) + off


def _broadened(nodes: Tensor, weights: Tensor, points: int, width: float | None) -> tuple[Tensor, Tensor, float]:
    # Gaussians around the nodes that weigh something.
    there = nodes[weights > 1e-14]
    low, high = float(there.min()), float(there.max())
    largest = max(abs(low), abs(high))
    spread = high - low if high - low > 1e-6 * largest else largest or 1.0  # one eigenvalue has no range
    sigma = width if width is not None else math.sqrt(1e-5) * spread
    if not (isinstance(sigma, Real) and sigma > 0 and math.isfinite(sigma)):
        raise UsageError(f"spectral_density got width={width!r}; expected a positive number, in units of the eigenvalues.")
    grid = torch.linspace(low - MARGIN * sigma, high + MARGIN * sigma, points, dtype=torch.float64)
    if points < 2 or float(grid[1] - grid[0]) > sigma:
        need = math.ceil((high - low) / sigma) + 2 * MARGIN + 1
        raise UsageError(
            f"spectral_density got grid_points={points}, too few for Gaussians of width {sigma:.2g}.\n"
            f"write:    grid_points={need}, or a larger width"
        )
    scaled = (grid[:, None] - nodes.flatten()) / sigma
    density = torch.exp(-scaled.square() / 2) @ weights.flatten() / (len(nodes) * sigma * math.sqrt(2 * math.pi))
    return grid, density, sigma
