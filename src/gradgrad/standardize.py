"""Zero mean and unit variance as a layer, so that a checkpoint carries its own units."""

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    r"""Map :math:`x` to :math:`z = (x - \mu) / \sigma`, and back.

    Args:
        mean: :math:`\mu`, in the unit of :math:`x`, shape ``(F,)``.
        std: :math:`\sigma > 0`, in the unit of :math:`x`, shape ``(F,)``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("std", std.detach().clone())

    @classmethod
    def placeholder(cls, features: int) -> "Standardize":
        """Make a layer whose numbers a checkpoint will fill in.

        Args:
            features: F, the length of both buffers.

        Returns:
            The identity on F features.
        """
        return cls(torch.zeros(features), torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """Standardize.

        Args:
            x: in its own unit, shape ``(..., F)``.

        Returns:
            Without unit, same shape.
        """
        return (x - self.mean) / self.std

    def inverse(self, z: Tensor) -> Tensor:
        """Undo :meth:`forward`.

        Args:
            z: without unit, shape ``(..., F)``.

        Returns:
            In the unit of x, same shape.
        """
        return z * self.std + self.mean
