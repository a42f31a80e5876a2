"""The p-norm of a gradient in many pieces, and its slope, finite also where the gradient is zero."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm


class Norm(NamedTuple):
    """A norm of many tensors taken as one vector, and its subgradient ``factor * directions``.

    Attributes:
        value: scalar.
        directions: one tensor for each; for the 2-norm the tensors themselves, so that nothing of their size is written.
        factor: scalar.
        slope: scalar, the subgradient's Euclidean length; 0 at zero.
    """

    value: Tensor
    directions: list[Tensor]
    factor: Tensor
    slope: Tensor


def p_norm(pieces: Sequence[Tensor], p: float) -> Norm:
    r"""Compute :math:`\lVert g \rVert_p` and :math:`\operatorname{sign}(g_i)\,(|g_i| / \lVert g \rVert_p)^{p-1}`.

    Everything is scaled by the largest entry first, so that high powers neither overflow nor vanish. Of several largest entries
    the maximum norm gives each an equal share, as PyTorch does.

    Args:
        pieces: tensors without graph, at least one.
        p: 1 or larger, ``inf`` for the maximum.

    Returns:
        The norm and its subgradient.
    """
    if p == 2:
        value = _total(pieces)
        factor = value.clamp_min(torch.finfo(value.dtype).tiny).reciprocal()
        return Norm(value, list(pieces), factor, value * factor)
    largest = _total([g for g in pieces if g.numel()], math.inf)
    scaled = [g / _or_one(largest) for g in pieces]
    if math.isinf(p):
        value = largest
        peaks = [s.sign() * (s.abs() == 1) for s in scaled]
        ties = _total(peaks, 1.0)
        directions = [peak / _or_one(ties) for peak in peaks]
    else:
        relative = _total(scaled, p)
        value = largest * relative
        directions = [s.sign() * (s.abs() / _or_one(relative)).pow(p - 1) for s in scaled]
    return Norm(value, directions, torch.ones_like(value), _total(directions))


def _total(pieces: Sequence[Tensor], p: float = 2.0) -> Tensor:
    # Not `torch.nn.utils.get_total_norm`: it sorts the tensors by device first, which costs a small net a tenth of a step.
    norms: Tensor = vector_norm(torch.stack([vector_norm(piece, p) for piece in pieces]), p)
    return norms


def _or_one(size: Tensor) -> Tensor:
    return torch.where(size > 0, size, torch.ones_like(size))
