"""The p-norm of a gradient in many pieces, and its slope, finite also where the gradient is zero."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm


class Norm(NamedTuple):
    """A norm of many tensors taken as one vector.

    Attributes:
        value: scalar.
        slopes: its subgradient, one tensor for each; zeros at zero.
    """

    value: Tensor
    slopes: list[Tensor]


def p_norm(pieces: Sequence[Tensor], p: float) -> Norm:
    r"""Compute :math:`\lVert g \rVert_p` and :math:`\operatorname{sign}(g_i)\,(|g_i| / \lVert g \rVert_p)^{p-1}`.

    Everything is scaled by the largest entry first, so that high powers neither overflow nor vanish. Of several largest entries
    the maximum norm gives each an equal share, as PyTorch does.

    Args:
        pieces: tensors without graph, at least one.
        p: 1 or larger, ``inf`` for the maximum.

    Returns:
        The norm and its slope.
    """
    if p == 2:
        value = get_total_norm(pieces)
        return Norm(value, [g / _or_one(value) for g in pieces])
    largest = get_total_norm([g for g in pieces if g.numel()], math.inf)
    scaled = [g / _or_one(largest) for g in pieces]
    if math.isinf(p):
        peaks = [(s.abs() == 1).to(s.dtype) for s in scaled]
        ties = _or_one(torch.stack([peak.sum() for peak in peaks]).sum())
        return Norm(largest, [s.sign() * peak / ties for s, peak in zip(scaled, peaks, strict=True)])
    power = torch.stack([s.abs().pow(p).sum() for s in scaled]).sum()
    relative = _or_one(power.pow(1 / p))
    return Norm(largest * power.pow(1 / p), [s.sign() * (s.abs() / relative).pow(p - 1) for s in scaled])


def _or_one(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, torch.ones_like(size))
