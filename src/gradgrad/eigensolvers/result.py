"""What an eigensolver returns: pairs, and how far each may be trusted."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EigenResult:
    r"""Some eigenpairs of a symmetric operator H of P rows.

    A small residual proves that an eigenvalue lies within :math:`\|H v - \lambda v\|` of :math:`\lambda`
    [Parlett 1998, theorem 4.5.1], not that it is the one that was asked for.

    Attributes:
        eigenvalues: shape ``(k,)``, descending, float64 on the CPU.
        eigenvectors: orthonormal columns, shape ``(P, k)``, in the operator's dtype and on its device.
        residuals: :math:`\|H v - \lambda v\| / \max(|\lambda|, \sqrt{\epsilon} \|H\|)`, shape ``(k,)``, float64 on the CPU.
            The norm of H is the largest magnitude that the solver has seen, epsilon that of the operator's dtype. 0 where H is 0.
        converged: whether a residual is at most the tolerance, shape ``(k,)``, bool on the CPU; nothing else decides. A copy of
            an eigenvalue whose multiplicity is above Lanczos' ``block_size`` can be missing, and another pair be in its place.
        matvecs: products of the operator with one vector; a block of K counts as K.
        seconds: wall time.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    converged: Tensor
    matvecs: int
    seconds: float


def relative(residuals: Tensor, eigenvalues: Tensor, norm: float, dtype: torch.dtype) -> Tensor:
    """Divide residuals by what they are to be small against.

    Args:
        residuals: norms, shape ``(k,)``, float64.
        eigenvalues: shape ``(k,)``, float64.
        norm: an estimate of the operator's.
        dtype: the operator's.

    Returns:
        Shape ``(k,)``; 0 where numerator and denominator are.
    """
    against = eigenvalues.abs().clamp_min(torch.finfo(dtype).eps ** 0.5 * norm)
    return torch.where(residuals == 0, 0.0, residuals / against)
