"""The diagonal from products alone."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradgrad.derivatives.operators import LinearOperator
from gradgrad.eigensolvers.counted import Counted
from gradgrad.eigensolvers.holding import holding
from gradgrad.eigensolvers.probes import generator, rademacher
from gradgrad.eigensolvers.sketch import leave_one_out
from gradgrad.eigensolvers.trace import unit_vectors
from gradgrad.errors import UsageError


@dataclass(frozen=True)
class DiagonalEstimate:
    """A diagonal.

    Attributes:
        value: shape ``(P,)``, in the operator's dtype and on its device.
        matvecs: products of the operator with one vector.
        seconds: wall time.
    """

    value: Tensor
    matvecs: int
    seconds: float


@holding
def diagonal(
    operator: LinearOperator, method: Literal["bekas", "xdiag"] = "xdiag", matvecs: int = 60, seed: int = 0
) -> DiagonalEstimate:
    r"""Estimate the diagonal.

    ``bekas`` is the mean of :math:`z \odot H z` over random signs [Bekas, Kokiopoulou & Saad 2007]; the variance of entry i is
    the sum of the squares of the others in its row, over ``matvecs``. ``xdiag`` takes the diagonal in a sketch of the range
    exactly, and the rest by the probe that was left out of it [Epperly, Tropp & Webber 2024]: exact for an operator whose
    rank is below half of ``matvecs``, and the better one where the spectrum decays. Both are unbiased.

    Where ``matvecs`` reaches P, the diagonal is read off the P products with unit vectors, whatever the method.

    Args:
        operator: P rows.
        method: see above.
        matvecs: most products; 60 is a guess, as for :func:`gradgrad.eigensolvers.trace`.
        seed: for the probes.

    Returns:
        The estimate.

    Raises:
        UsageError: an unknown method, too few products for it, or a product that is not finite.
    """
    counted = Counted(operator, "diagonal")
    counted.whole(matvecs=matvecs, seed=seed)
    least = {"bekas": 1, "xdiag": 4}
    if method not in least:
        raise UsageError(f"diagonal got method={method!r}; expected one of {', '.join(least)}.")
    if matvecs < min(least[method], counted.size):
        raise UsageError(f"diagonal got matvecs={matvecs}; expected {min(least[method], counted.size)} at least for {method}.")
    if matvecs >= counted.size:
        value = counted(unit_vectors(counted.like)).diagonal().clone()
    elif method == "bekas":
        value = _bekas(counted, matvecs, generator(seed))
    else:
        value = _xdiag(counted, rademacher(matvecs // 2, counted.like, generator(seed)))
    counted.finite(value.sum())
    return DiagonalEstimate(value / counted.unit, counted.matvecs, counted.seconds)


def _bekas(counted: Counted, matvecs: int, source: torch.Generator) -> Tensor:
    total, block = torch.zeros_like(counted.like, memory_format=torch.contiguous_format), counted.room(2)
    for first in range(0, matvecs, block):
        z = rademacher(min(block, matvecs - first), counted.like, source)
        total += (z * counted(z)).sum(0)
    return total / matvecs


def _xdiag(counted: Counted, omega: Tensor) -> Tensor:
    sketch = leave_one_out(counted, omega)
    rows, s = sketch.basis.rows(), sketch.left_out
    kept = torch.eye(len(s), dtype=torch.float64) - s @ s.T / len(omega)
    inside = (rows * (kept.to(rows) @ sketch.products)).sum(0)
    outside = (s * (s * sketch.factor).sum(0)).T.to(rows) @ rows
    return inside + (omega * outside).mean(0)
