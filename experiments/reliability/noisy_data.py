"""A table whose rows are disturbed anew each time they are drawn."""

import torch
from torch import nn

from gradgrad.batches import Batch
from gradgrad.datamodules import TabularRegression
from gradgrad.datamodules.tabular import Rows


class NoisyRows(Rows):
    """Rows with noise on the inputs, from the stream that dropout draws from too."""

    def __getitems__(self, indices: list[int]) -> Batch:
        """Collect a batch.

        Args:
            indices: row numbers.

        Returns:
            Those rows, disturbed.
        """
        batch = super().__getitems__(indices)
        return Batch(batch.x + 0.01 * torch.randn_like(batch.x), batch.y)


class NoisyRegression(TabularRegression):
    """A table in three parts, the training part with noise."""

    def setup(self, stage: str) -> None:
        """Read the table.

        Args:
            stage: Lightning's.
        """
        super().setup(stage)
        self.rows["training"] = NoisyRows(self.rows["training"].batch)


class Dropped(nn.Module):
    """Dropout and batch normalization.

    Args:
        in_features: number of inputs.
        out_features: number of outputs.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        layers = [nn.Linear(in_features, 20), nn.BatchNorm1d(20), nn.Tanh(), nn.Dropout(0.3), nn.Linear(20, out_features)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate.

        Args:
            x: inputs.

        Returns:
            Outputs.
        """
        output: torch.Tensor = self.layers(x)
        return output
