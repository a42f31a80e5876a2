"""Orthonormal vectors, one in each row, whose memory grows as they come."""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 2**23  # numbers that are allocated together, 32 MB in float32: a guess, small beside a model's memory


class Basis:
    """Orthonormal rows of length P.

    Memory is taken a few rows at a time, up to ``BLOCK`` numbers, and never moved.

    Args:
        capacity: most rows.
        like: one vector, shape ``(P,)``, whose dtype and device are used.

    Attributes:
        count: rows now.
    """

    def __init__(self, capacity: int, like: Tensor) -> None:
        self.count = 0
        self._like = like.detach().new_empty(0)
        self._size = like.numel()
        self._rows = max(1, min(capacity, BLOCK // self._size))
        self._blocks: list[Tensor] = []

    def append(self, rows: Tensor) -> None:
        """Take rows in.

        Args:
            rows: orthonormal to one another and to those that are here, shape ``(K, P)``.
        """
        for row in rows:
            if self.count == len(self._blocks) * self._rows:
                self._blocks.append(self._like.new_empty(self._rows, self._size))
            self._blocks[self.count // self._rows][self.count % self._rows] = row
            self.count += 1

    def _filled(self) -> Iterator[tuple[slice, Tensor]]:
        for begin in range(0, self.count, self._rows):
            end = min(begin + self._rows, self.count)
            yield slice(begin, end), self._blocks[begin // self._rows][: end - begin]

    def rows(self) -> Tensor:
        """Give the rows as one tensor, shape ``(count, P)``: a copy where they were allocated apart."""
        blocks = [block for _, block in self._filled()]
        return blocks[0] if len(blocks) == 1 else torch.cat([self._like.new_empty(0, self._size), *blocks])

    def coefficients(self, rows: Tensor) -> Tensor:
        """Multiply by this basis.

        Args:
            rows: shape ``(K, P)``.

        Returns:
            The components of rows along this basis, shape ``(count, K)``.
        """
        if len(rows) == 1:  # a matrix times a vector is several times as fast as times a column
            parts = [(block @ rows[0])[:, None] for _, block in self._filled()]
        else:
            parts = [block @ rows.T for _, block in self._filled()]
        parts = parts or [rows.new_zeros(0, len(rows))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def orthogonalize(self, rows: Tensor, passes: int = 2) -> Tensor:
        """Take the components along this basis out of rows, in place.

        Args:
            rows: shape ``(K, P)``.
            passes: how many times; twice is enough [Giraud et al. 2005].

        Returns:
            The components, shape ``(count, K)``.
        """
        parts = []
        for _ in range(passes):
            parts.append(self.coefficients(rows))
            for where, block in self._filled():
                rows.addmm_(parts[-1][where].T, block, alpha=-1)
        return parts[0] if passes == 1 else torch.stack(parts).sum(0)

    def combine(self, weights: Tensor) -> Tensor:
        """Add rows up.

        Args:
            weights: shape ``(count, K)``, any dtype, on the CPU.

        Returns:
            Shape ``(K, P)``.
        """
        weights = weights.to(self._like)
        total = self._like.new_zeros(weights.shape[1], self._size)
        for where, block in self._filled():
            total.addmm_(weights[where].T, block)
        return total

    def rotate(self, weights: Tensor) -> None:
        """Replace the rows by sums of them, in place, by pieces along P.

        Args:
            weights: orthonormal columns, shape ``(count, K)`` with K at most ``count``, any dtype, on the CPU.
        """
        weights = weights.to(self._like)
        width = max(1, BLOCK // max(1, self.count))
        for begin in range(0, self._size, width):
            piece = torch.cat([block[:, begin : begin + width] for _, block in self._filled()])
            new = weights.T @ piece
            for row in range(len(new)):
                self._blocks[row // self._rows][row % self._rows, begin : begin + width] = new[row]
        self.count = weights.shape[1]
        del self._blocks[-(-self.count // self._rows) :]
