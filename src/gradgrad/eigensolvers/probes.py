"""Random vectors that are the same on every device and on every rank."""

import torch
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    """Make a generator on the CPU, apart from the global one.

    Args:
        seed: any integer.

    Returns:
        The generator.
    """
    return torch.Generator().manual_seed(seed)


def gaussian(count: int, like: Tensor, source: torch.Generator) -> Tensor:
    """Draw independent standard normal numbers.

    Args:
        count: K.
        like: one vector, shape ``(P,)``, whose dtype and device are used.
        source: on the CPU.

    Returns:
        Shape ``(K, P)``.
    """
    return torch.randn(count, len(like), generator=source, dtype=like.dtype).to(like.device)


def rademacher(count: int, like: Tensor, source: torch.Generator) -> Tensor:
    """Draw independent signs, +1 or -1 with the same probability.

    Args:
        count: K.
        like: as for :func:`gaussian`.
        source: on the CPU.

    Returns:
        Shape ``(K, P)``.
    """
    signs = torch.randint(0, 2, (count, len(like)), generator=source, dtype=torch.int8)
    return signs.to(like.device).to(like.dtype).mul_(2).sub_(1)
