"""Symmetric linear maps that are known by their products only."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gradgrad.errors import UsageError


class LinearOperator(ABC):
    """A symmetric matrix of ``size`` rows, known by what it does to vectors.

    A subclass writes ``_matmat``.

    Attributes:
        size: P, number of rows and of columns.
        dtype: of the vectors.
        device: of the vectors.
    """

    size: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def _matmat(self, vectors: Tensor) -> Tensor:
        """Multiply; ``vectors`` has been checked and has shape ``(P, K)``."""

    def held(self) -> AbstractContextManager[None]:
        """Promise that what the matrix depends on stays as it is inside, which makes products cheaper for some operators.

        Returns:
            To be entered around several products, with arithmetic on vectors between them.
        """
        return nullcontext()

    def matvec(self, vector: Tensor) -> Tensor:
        """Multiply one vector.

        Args:
            vector: shape ``(P,)``, in this operator's dtype.

        Returns:
            Shape ``(P,)``, without a graph.

        Raises:
            UsageError: another shape or dtype.
        """
        self._check(vector, (self.size,), "matvec")
        return self._matmat(vector.unsqueeze(1)).squeeze(1)

    def matmat(self, vectors: Tensor) -> Tensor:
        """Multiply K vectors, in one pass over the data.

        Args:
            vectors: one in each column, shape ``(P, K)``, in this operator's dtype.

        Returns:
            Shape ``(P, K)``, without a graph.

        Raises:
            UsageError: another shape or dtype.
        """
        self._check(vectors, (self.size, vectors.shape[-1] if isinstance(vectors, Tensor) and vectors.dim() else 0), "matmat")
        return self._matmat(vectors)

    def __matmul__(self, other: Tensor) -> Tensor:
        """Multiply a vector or a matrix, as ``operator @ other``."""
        return self.matmat(other) if isinstance(other, Tensor) and other.dim() == 2 else self.matvec(other)

    def _check(self, vectors: Tensor, shape: tuple[int, ...], method: str) -> None:
        if not isinstance(vectors, Tensor):
            raise UsageError(f"{type(self).__name__}.{method} got a {type(vectors).__name__}; expected a tensor.")
        if vectors.shape != shape or vectors.dtype != self.dtype:
            expected = f"({self.size},)" if method == "matvec" else f"({self.size}, K)"
            raise UsageError(
                f"{type(self).__name__}.{method} got a vector of shape {tuple(vectors.shape)} and {vectors.dtype}; "
                f"expected {expected} and {self.dtype}."
            )


class DenseOperator(LinearOperator):
    """A symmetric matrix that is written down, for tests and small problems.

    Args:
        matrix: shape ``(P, P)``, symmetric.

    Raises:
        UsageError: no tensor, or not square.
    """

    def __init__(self, matrix: Tensor) -> None:
        if not isinstance(matrix, Tensor):
            raise UsageError(f"DenseOperator got a {type(matrix).__name__}; expected a tensor of shape (P, P).")
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise UsageError(f"DenseOperator got a matrix of shape {tuple(matrix.shape)}; expected a square one.")
        self.matrix = matrix.detach()
        self.size, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device

    def _matmat(self, vectors: Tensor) -> Tensor:
        return self.matrix @ vectors


class ScaledOperator(LinearOperator):
    r"""A matrix between two diagonal ones, :math:`D A D`; with :math:`D = P^{-1/2}` it has the eigenvalues of :math:`P^{-1} A`.

    Args:
        operator: A.
        scale: the diagonal of D, positive, shape ``(P,)``, in A's dtype and on its device.

    Raises:
        UsageError: a scale that does not match, or with an entry that is not positive.
    """

    def __init__(self, operator: LinearOperator, scale: Tensor) -> None:
        if scale.shape != (operator.size,) or scale.dtype != operator.dtype:
            raise UsageError(
                f"ScaledOperator got a scale of shape {tuple(scale.shape)} and {scale.dtype}; "
                f"expected ({operator.size},) and {operator.dtype}."
            )
        if not ((scale > 0) & scale.isfinite()).all():
            raise UsageError(
                "ScaledOperator got a scale with entries that are not positive and finite.\n"
                "write:    preconditioner.rsqrt(), for example, of a preconditioner that is positive"
            )
        self.operator, self.scale = operator, scale.detach()
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device

    def held(self) -> AbstractContextManager[None]:
        """Hold A.

        Returns:
            What A gives.
        """
        return self.operator.held()

    def _matmat(self, vectors: Tensor) -> Tensor:
        scale = self.scale.unsqueeze(1)
        return scale * self.operator._matmat(scale * vectors)
