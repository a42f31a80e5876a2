"""A linear map to be learned from whitened inputs."""

import math

import torch

from gradgrad.batches import Batch
from gradgrad.datamodules.full_batch import FullBatch


class WhitenedLinearRegression(FullBatch):
    r"""Learn :math:`y = A x` from N inputs with :math:`\frac{1}{N} \sum_n x_n x_n^\top = I` [Cohen et al. 2021, ICLR].

    A has standard normal entries. With one linear layer all curvatures of half the squared error are 1; what else is seen comes
    from depth. Shapes: ``x`` and ``y`` are ``(samples, features)``, without unit.

    Args:
        samples: N, at least ``features``; 50 is theirs.
        features: number of inputs, and of outputs; 50 is theirs.
        seed: of inputs and map; 0 gives the deep linear network of seed 8 the sharpness 2,973.
        steps_per_epoch: as in :class:`gradgrad.datamodules.full_batch.FullBatch`.

    Raises:
        UsageError: a size is too small.
    """

    name = "whitened_linear"

    def __init__(self, samples: int = 50, features: int = 50, seed: int = 0, steps_per_epoch: int = 1000) -> None:
        super().__init__(steps_per_epoch)
        self.samples, self.features, self.seed = samples, features, seed
        self.check_sizes("features")
        self.check_sizes("samples", least=features)

    def draw(self) -> Batch:
        """Draw and whiten.

        Returns:
            Drawn in float32 (another width would draw other numbers), whitened in float64, given in torch's default dtype.
        """
        generator = torch.Generator().manual_seed(self.seed)
        raw = torch.randn(self.samples, self.features, generator=generator, dtype=torch.float32).double()
        weight = torch.randn(self.features, self.features, generator=generator, dtype=torch.float32).double()
        x = math.sqrt(self.samples) * torch.linalg.solve_triangular(torch.linalg.qr(raw).R, raw, upper=True, left=False)
        return Batch(x.to(torch.get_default_dtype()), (x @ weight.T).to(torch.get_default_dtype()))
