"""A space that is grown by products, what the operator is in it, and what is left outside."""

import torch
from torch import Tensor

from gradgrad.eigensolvers.basis import Basis
from gradgrad.eigensolvers.counted import Counted
from gradgrad.eigensolvers.probes import gaussian
from gradgrad.errors import UsageError

ASYMMETRY = 0.1  # of the norm, a guess: products in bfloat16 are symmetric to a per cent, wrong ones not at all


class KrylovSpace:
    r"""Orthonormal V, whose products are known, and orthonormal Q beside it, such that :math:`H V = V T + Q S`.

    From one start vector this is the Lanczos process, from several band Lanczos [Ruhe 1979]; after :meth:`restart` the relation
    holds as before (thick restart [Wu & Simon 2000]). All of T and S is kept, no symmetry is assumed, and so the residual of a
    Ritz pair, :math:`\|H V y - \theta V y\| = \|(T y - \theta y; S y)\|`, is a true one even for inexact products.

    Args:
        counted: the operator H.
        start: rows that span the first Q, shape ``(K, P)``; they need not be orthogonal, and may be overwritten.
        capacity: most rows of V.
        source: for the random vectors that go on from an invariant space.
    """

    def __init__(self, counted: Counted, start: Tensor, capacity: int, source: torch.Generator) -> None:
        self._counted, self._source = counted, source
        self._v = Basis(capacity, counted.like)
        self._q = start[:0]
        self._t = torch.zeros(0, 0, dtype=torch.float64)
        self._s = torch.zeros(0, 0, dtype=torch.float64)
        self._norm = 0.0  # the largest norm of a product
        for row in start:
            self._begin(row[None])

    @property
    def known(self) -> int:
        """Vectors whose products are known, columns of V."""
        return self._v.count

    @property
    def outside(self) -> int:
        """Vectors that come next, columns of Q."""
        return len(self._q)

    def _leave(self, row: Tensor, along_v: Tensor, scale: Tensor) -> Tensor:
        # Take what a product of norm `scale` left over into Q, unless it is rounding, and give all its components along V.
        # Along Q, along V and along Q again: what one of them takes away must not uncover the rounding of the other.
        along_q = _project_out(row, self._q)
        along_v = along_v + self._v.orthogonalize(row, passes=1)
        along_q += _project_out(row, self._q)
        norm = torch.linalg.vector_norm(row)
        numbers = self._counted.finite(torch.cat([along_v, along_q, norm.view(1, 1), scale.view(1, 1)]))  # the only transfer
        size, whole = numbers[-2:, 0].tolist()
        self._norm = max(self._norm, whole)
        column = numbers[self.known : -2]
        if size > 10 * torch.finfo(row.dtype).eps * whole:
            self._take(row / norm)
            column = numbers[self.known : -1]
        self._s = torch.cat([self._s, column], dim=1)
        return numbers[: self.known]

    def _begin(self, row: Tensor) -> None:
        # Take a vector into Q whose part outside of V and Q is more than rounding.
        unit = row / torch.linalg.vector_norm(row).clamp_min(torch.finfo(row.dtype).tiny)
        for _ in range(2):
            self._v.orthogonalize(unit, passes=1)
            _project_out(unit, self._q)
        norm = torch.linalg.vector_norm(unit)
        if float(norm) > 10 * torch.finfo(row.dtype).eps:
            self._take(unit / norm)

    def _take(self, unit: Tensor) -> None:
        self._q = torch.cat([self._q, unit]) if len(self._q) else unit
        self._s = torch.cat([self._s, self._s.new_zeros(1, self._s.shape[1])])

    def expand(self, directions: Tensor) -> None:
        """Multiply some of Q and move them to V.

        Args:
            directions: orthonormal columns, which vectors of Q are meant, shape ``(outside, K)``, float64 on the CPU.

        Raises:
            UsageError: a product that is not finite, or an operator that is not symmetric.
        """
        if directions.shape[1] == self.outside:  # all of Q, the common case: no need to turn it
            u, self._q, rows, self._s = self._q, self._q[:0], self._s, self._s[:0]
        else:
            others = _complement(directions)
            u = directions.T.to(self._q) @ self._q
            self._q = others.T.to(self._q) @ self._q
            rows, self._s = directions.T @ self._s, others.T @ self._s
        self._v.append(u)
        w = self._counted(u)
        scales = torch.linalg.vector_norm(w, dim=1)
        along = self._v.orthogonalize(w, passes=1)
        inside = [self._leave(row[None], along[:, j : j + 1], scales[j]) for j, row in enumerate(w)]
        self._t = torch.cat([torch.cat([self._t, rows]), *inside], dim=1)
        self._check_symmetry()
        if not len(self._q) and self.known < self._counted.size:
            self._begin(gaussian(1, self._counted.like, self._source))

    def _check_symmetry(self) -> None:
        defect = float((self._t - self._t.T).abs().max())
        if defect > ASYMMETRY * self._norm:
            raise UsageError(
                f"{self._counted.who} got an operator that is not symmetric: u'Hv and v'Hu differ by {defect / self._norm:.0%} "
                "of its norm.\n"
                "expected: the Hessian of one function, whose data and random numbers do not change from product to product"
            )

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Solve the projected problem.

        Returns:
            Ritz values, ascending, shape ``(known,)``, and their coordinates in V, columns.
        """
        values, y = torch.linalg.eigh((self._t + self._t.T) / 2)
        return values, y

    def residuals(self, values: Tensor, y: Tensor) -> Tensor:
        """Give the norms of residuals.

        Args:
            values: Ritz values, shape ``(k,)``.
            y: their coordinates in V, columns.

        Returns:
            Shape ``(k,)``.
        """
        norms: Tensor = torch.linalg.vector_norm(torch.cat([self._t @ y - y * values, self._s @ y]), dim=0)
        return norms

    def outer(self, y: Tensor) -> Tensor:
        """Give the part of residuals that is along Q.

        Args:
            y: coordinates of Ritz vectors in V, columns.

        Returns:
            Coordinates in Q, shape ``(outside, k)``.
        """
        return self._s @ y

    def vectors(self, y: Tensor) -> Tensor:
        """Give Ritz vectors.

        Args:
            y: coordinates in V, columns.

        Returns:
            Shape ``(k, P)``.
        """
        return self._v.combine(y)

    def restart(self, y: Tensor) -> None:
        """Keep some Ritz vectors of V and forget the rest of it, in place.

        Args:
            y: their coordinates in V, columns.
        """
        self._v.rotate(y)
        self._t, self._s = y.T @ self._t @ y, self._s @ y


def _complement(directions: Tensor) -> Tensor:
    q: Tensor = torch.linalg.qr(directions, mode="complete").Q
    return q[:, directions.shape[1] :]


def _project_out(row: Tensor, q: Tensor) -> Tensor:
    if not len(q):
        return row.new_zeros(0, 1)
    along = (q @ row[0])[:, None]
    row.addmm_(along.T, q, alpha=-1)
    return along
