"""The range of an operator from random probes, each of which can be left out afterwards."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradgrad.eigensolvers.basis import Basis
from gradgrad.eigensolvers.counted import Counted


def orthonormal(rows: Tensor, counted: Counted) -> tuple[Basis, Tensor]:
    """Orthonormalize rows, one after the other and each twice (Gram and Schmidt).

    Args:
        rows: shape ``(K, P)``; overwritten.
        counted: whose products they are.

    Returns:
        Q with r rows, at most K, and R, shape ``(r, K)``, float64 on the CPU, such that ``rows = R.T @ Q``. What is only rounding
        of the rest is left out.
    """
    basis = Basis(len(rows), counted.like)
    columns: list[Tensor] = []
    scale = float(counted.finite(torch.linalg.vector_norm(rows, dim=1)).max())
    for row in rows:
        along = counted.finite(basis.orthogonalize(row[None]).squeeze(1))
        norm = torch.linalg.vector_norm(row)
        size = float(norm)
        if size > len(row) ** 0.5 * 10 * torch.finfo(row.dtype).eps * scale:
            basis.append((row / norm)[None])
            along = torch.cat([along, along.new_full((1,), size)])
        columns.append(along)
    factor = torch.zeros(basis.count, len(rows), dtype=torch.float64)
    for column, along in enumerate(columns):
        factor[: len(along), column] = along
    return basis, factor


@dataclass(frozen=True)
class Sketch:
    r"""The products :math:`H \Omega = Q R` and :math:`H Q`, in coordinates of Q; float64 on the CPU.

    Attributes:
        basis: Q, with r rows.
        products: :math:`H Q`, shape ``(r, P)``, in the operator's dtype and on its device.
        projected: :math:`Q^\top H Q`, symmetric, shape ``(r, r)``.
        factor: R, shape ``(r, K)``.
        probes: :math:`Q^\top \Omega`, shape ``(r, K)``.
        cross: :math:`(H Q)^\top \Omega`, shape ``(r, K)``.
        left_out: for each probe the unit vector of the range that is lost without it, shape ``(r, K)``; 0 where the operator's
            rank is so low that nothing is.
    """

    basis: Basis
    products: Tensor
    projected: Tensor
    factor: Tensor
    probes: Tensor
    cross: Tensor
    left_out: Tensor


def leave_one_out(counted: Counted, omega: Tensor) -> Sketch:
    """Sketch the range of an operator with K probes and 2 K products at most.

    Args:
        counted: the operator.
        omega: probes, shape ``(K, P)``.

    Returns:
        What :func:`gradgrad.eigensolvers.trace` and :func:`gradgrad.eigensolvers.diagonal` compute from.
    """
    basis, factor = orthonormal(counted(omega), counted)
    products = counted(basis.rows()) if basis.count else omega[:0]
    projected = counted.finite(basis.coefficients(products))
    left_out = torch.zeros_like(factor)
    if basis.count == len(omega):
        inverse = torch.linalg.solve_triangular(factor.T, torch.eye(len(factor), dtype=torch.float64), upper=False)
        left_out = inverse / inverse.norm(dim=0)
    cross = counted.finite(products @ omega.T)
    probes = counted.finite(basis.coefficients(omega))
    return Sketch(basis, products, (projected + projected.T) / 2, factor, probes, cross, left_out)
