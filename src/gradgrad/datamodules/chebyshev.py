"""A polynomial to be fitted, the smallest problem with an edge of stability."""

import torch

from gradgrad.batches import Batch
from gradgrad.datamodules.full_batch import FullBatch


class ChebyshevRegression(FullBatch):
    r"""Fit :math:`T_k(x) = \cos(k \arccos x)` at equally spaced points of [-1, 1], ends included [Cohen et al. 2021, ICLR].

    A few points make steps that cost microseconds. Shapes: ``x`` and ``y`` are ``(points, 1)``, without unit.

    Args:
        degree: k; 4 is the middle of theirs (3 to 5).
        points: N; 20 is theirs.
        steps_per_epoch: as in :class:`gradgrad.datamodules.full_batch.FullBatch`.

    Raises:
        UsageError: a size is too small.
    """

    name = "chebyshev"

    def __init__(self, degree: int = 4, points: int = 20, steps_per_epoch: int = 1000) -> None:
        super().__init__(steps_per_epoch)
        self.degree, self.points = degree, points
        self.check_sizes("degree")
        self.check_sizes("points", least=2)

    def draw(self) -> Batch:
        """Evaluate the polynomial.

        Returns:
            Computed in float64, given in torch's default dtype.
        """
        x = torch.linspace(-1, 1, self.points, dtype=torch.float64)[:, None]
        y = torch.cos(self.degree * torch.acos(x))
        return Batch(x.to(torch.get_default_dtype()), y.to(torch.get_default_dtype()))
