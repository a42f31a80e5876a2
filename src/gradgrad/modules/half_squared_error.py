"""The loss of which gradient descent's stability is usually told."""

from torch import Tensor, nn


class HalfSquaredError(nn.Module):
    r"""Half the squared error, summed over outputs and averaged over samples: :math:`\frac{1}{2N} \sum_n |f(x_n) - y_n|^2`.

    The loss of the experiments of Cohen et al. 2021, ICLR. ``torch.nn.MSELoss`` is 2/T times it, with T outputs.
    """

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Compare outputs with targets.

        Args:
            output: shape ``(N, T)``.
            target: same shape.

        Returns:
            Scalar, in the square of the target's unit.
        """
        return (output - target).square().sum() / (2 * len(output))
