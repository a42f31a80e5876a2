"""A network and its criterion, in the form that penalties and curvature ask for."""

from torch import Tensor, nn

from gradgrad.batches import Batch


class Supervised(nn.Module):
    """A network with a loss.

    Args:
        network: maps inputs, shape ``(B, F)``, to outputs, shape ``(B, T)``.
        criterion: maps outputs and targets to the mean loss; with ``torch.nn.GaussianNLLLoss`` the outputs are the mean and the
            logarithm of the variance.
    """

    def __init__(self, network: nn.Module, criterion: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.criterion = criterion

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            x: standardized inputs, shape ``(B, F)``.

        Returns:
            Outputs in units of standardized targets, shape ``(B, T)``.
        """
        output: Tensor = self.network(x)
        return output

    def loss(self, batch: Batch) -> Tensor:
        """Evaluate the loss.

        Args:
            batch: standardized samples.

        Returns:
            Scalar, in units of the criterion.
        """
        return self.of(self(batch.x), batch.y)

    def of(self, output: Tensor, target: Tensor) -> Tensor:
        """Compare outputs with targets.

        Args:
            output: shape ``(B, T)``.
            target: standardized, shape ``(B, 1)``.

        Returns:
            Scalar, in units of the criterion.
        """
        if isinstance(self.criterion, nn.GaussianNLLLoss):
            mean, log_variance = output.chunk(2, dim=-1)
            loss: Tensor = self.criterion(mean, target, log_variance.exp())
        else:
            loss = self.criterion(output, target)
        return loss
