"""Some eigenpairs from few products: Lanczos with full orthogonalization, restarts, blocks and warm starts."""

from typing import Literal

import torch
from torch import Tensor

from gradgrad.derivatives.operators import LinearOperator
from gradgrad.eigensolvers.counted import Counted, check_pairs, start_rows
from gradgrad.eigensolvers.holding import holding
from gradgrad.eigensolvers.krylov import KrylovSpace
from gradgrad.eigensolvers.probes import gaussian, generator
from gradgrad.eigensolvers.result import EigenResult, relative
from gradgrad.errors import UsageError

COLD = 3  # products beyond k that a random start takes at least: a guess; a Hessian of a network takes twice as many anyway


@holding
def lanczos(
    operator: LinearOperator,
    k: int = 1,
    which: Literal["LA", "SA", "LM", "BE"] = "LA",
    tol: float = 1e-3,
    max_matvecs: int = 300,
    start: Tensor | None = None,
    block_size: int = 1,
    basis_size: int | None = None,
    seed: int = 0,
) -> EigenResult:
    r"""Find a few eigenpairs of a symmetric operator from its products.

    Lanczos with full orthogonalization, in block and band form [Golub & Underwood 1977; Ruhe 1979], with thick restarts
    [Wu & Simon 2000]. After every step the pairs are tested, by their residuals alone; the space grows by what the residuals of
    wanted pairs that have not converged are most along.

    A random start takes k + 3 products at least. With ``start`` the test begins at once, and a vector that is still right costs
    one product; as a residual cannot see an eigenvalue that the start knows nothing of, mix some random numbers in. An
    eigenvalue of multiplicity m is found m times for sure with ``block_size`` at least m.

    Args:
        operator: P rows.
        k: number of pairs.
        which: the largest (``LA``), the smallest (``SA``), the largest in magnitude (``LM``), or both ends (``BE``): ceil(k / 2)
            from the top and floor(k / 2) from the bottom, of one space.
        tol: relative residual, see :class:`EigenResult`. Of 180 measured answers for one pair none was wrong at 1e-3, one at
            1e-2; for five pairs at once one and two.
        max_matvecs: most products; 300 is a guess, ten times what five pairs of a network take.
        start: shape ``(P,)``, or ``(P, K)``: K vectors, such as the eigenvectors of a similar operator. They are made unit
            vectors and added up, in turns, to ``block_size`` vectors. Five of them as one vector took 13 products, as a block
            of five 14; at tol 1e-3 16 and 23. The block is better where they have hardly changed.
        block_size: vectors that are multiplied together, in one pass over the data.
        basis_size: most vectors in memory beside the products, which is taken as they come; by default the larger of 20 and
            2 k + 8, measured to cost no products for k up to 5.
        seed: for random vectors.

    Returns:
        The pairs. Those whose budget was exhausted are as good as their residuals.

    Raises:
        UsageError: an argument that cannot be, a product that is not finite, or an operator that is not symmetric.
    """
    counted = Counted(operator, "lanczos")
    check_pairs(counted, k, which, ("LA", "SA", "LM", "BE"), tol, max_matvecs)
    counted.whole(block_size=block_size, basis_size=1 if basis_size is None else basis_size, seed=seed)
    rows = start_rows(counted, start)
    source = generator(seed)
    least = k if len(rows) else min(counted.size, k + COLD)
    most = _basis_size(counted, k, block_size, basis_size)
    rows = torch.cat([_folded(rows, block_size), gaussian(max(0, block_size - len(rows)), counted.like, source)])
    space = KrylovSpace(counted, rows, most, source)
    if not space.outside:
        raise UsageError("lanczos got a start of zeros; expected a vector.\nwrite:    start=None, for a random one")
    search = _Search(space, k, which, tol, counted.like.dtype)
    while True:
        step = min(block_size if space.known else space.outside, max_matvecs - counted.matvecs)
        space.expand(search.directions(step))
        known, full = counted.matvecs, space.known + space.outside + block_size > most
        if known < min(least, max_matvecs) and space.known < counted.size and space.outside <= block_size and not full:
            continue  # too early to stop, and nothing to choose
        search.solve()
        enough = search.done and counted.matvecs >= least
        if enough or counted.matvecs >= max_matvecs or space.known == counted.size:
            return search.result(counted)
        if full:
            search.restart(most - space.outside - block_size)


def _folded(rows: Tensor, count: int) -> Tensor:
    # Unit vectors, added up in turns to `count` of them.
    units = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return torch.stack([units[first::count].sum(0) for first in range(min(count, len(units)))]) if len(units) else units


def _basis_size(counted: Counted, k: int, block_size: int, basis_size: int | None) -> int:
    if not 1 <= block_size <= counted.size:
        raise UsageError(f"lanczos got block_size={block_size}; expected 1 to {counted.size}, the operator's size.")
    least = k + 2 * block_size
    if basis_size is None:
        basis_size = max(20, 2 * k + 8, 2 * least)
    if basis_size >= counted.size:
        return counted.size + block_size  # the whole space has room, and nothing is forgotten
    if basis_size < least:
        raise UsageError(f"lanczos got basis_size={basis_size}; expected {least} at least: k={k} and two blocks of {block_size}.")
    return basis_size


class _Search:
    """Which Ritz pairs are wanted, and how good they are."""

    def __init__(self, space: KrylovSpace, k: int, which: str, tol: float, dtype: torch.dtype) -> None:
        self.space, self.k, self.which, self.tol, self.dtype = space, k, which, tol, dtype
        self.values = torch.zeros(0, dtype=torch.float64)

    def solve(self) -> None:
        """Find the Ritz pairs of the space, the wanted ones first."""
        values, y = self.space.ritz()
        order = ranking(values, self.which)
        self.values, self.y = values[order], y[:, order]
        self.norms = self.space.residuals(self.values, self.y)
        self.residuals = relative(self.norms, self.values, float(values.abs().max()), self.dtype)

    @property
    def done(self) -> bool:
        """Whether all wanted pairs are there and converged."""
        return len(self.values) >= self.k and bool((self.residuals[: self.k] <= self.tol).all())

    def directions(self, count: int) -> Tensor:
        """Say what to multiply next: what the residuals of pairs that have not converged are most along."""
        if not len(self.values) or count >= self.space.outside:
            return torch.eye(self.space.outside, dtype=torch.float64)[:, :count]
        wanted, norms = self.residuals[: self.k], self.norms[: self.k]
        missing = wanted > self.tol if bool((wanted > self.tol).any()) else torch.ones_like(wanted, dtype=torch.bool)
        weights = torch.where(missing & (norms > 0), wanted / norms, 0.0)
        left: Tensor = torch.linalg.svd(self.space.outer(self.y[:, : self.k]) * weights).U
        return left[:, :count]

    def restart(self, room: int) -> None:
        """Keep the wanted half of the space, in ``room`` vectors at most."""
        keep = min(room, self.k + (len(self.values) - self.k) // 2)
        self.space.restart(self.y[:, :keep])
        self.solve()

    def result(self, counted: Counted) -> EigenResult:
        """Give the wanted pairs as they are."""
        order = self.values[: self.k].argsort(descending=True)
        values, residuals = self.values[order], self.residuals[order]
        vectors = self.space.vectors(self.y[:, order]).T
        return EigenResult(values / counted.unit, vectors, residuals, residuals <= self.tol, counted.matvecs, counted.seconds)


def ranking(values: Tensor, which: str) -> Tensor:
    """Say in which order ascending values are wanted.

    Args:
        values: ascending.
        which: LA, SA, LM, or BE, which takes from the top and the bottom in turns.

    Returns:
        Indices, the most wanted first.
    """
    count = len(values)
    if which == "LM":
        return values.abs().argsort(descending=True, stable=True)
    if which == "LA":
        return torch.arange(count - 1, -1, -1)
    if which == "SA":
        return torch.arange(count)
    turns = torch.arange(count)
    return torch.where(turns % 2 == 0, count - 1 - turns // 2, turns // 2)
