"""Classes to be told apart, around a common mean."""

import torch

from gradgrad.batches import Batch
from gradgrad.datamodules.full_batch import FullBatch


class GaussianBlobs(FullBatch):
    r"""Tell which of C normal distributions a sample is from: :math:`x = m + \mu_c + \varepsilon`.

    The common mean m, the same in every feature, makes the second moment of x have one large eigenvalue, as that of images has;
    centers :math:`\mu_c` and noise are normal, the noise of deviation 1. Classes come in turn, as equal as can be.
    Shapes: ``x`` is ``(samples, features)`` without unit, ``y`` holds class numbers (int64), ``(samples,)``.

    Args:
        classes: C.
        features: D; 30 is a guess, larger than C.
        samples: N; 500 is a guess, many more than D.
        mean: m; 1.5 is a guess, somewhat more than the standard deviations of images, which are about their means.
        spread: standard deviation of the centers; 0.5 is a guess at which classes overlap.
        seed: of centers and noise.
        steps_per_epoch: as in :class:`gradgrad.datamodules.full_batch.FullBatch`.

    Raises:
        UsageError: a size is too small.
    """

    name = "gaussian_blobs"

    def __init__(
        self,
        classes: int = 3,
        features: int = 30,
        samples: int = 500,
        mean: float = 1.5,
        spread: float = 0.5,
        seed: int = 0,
        steps_per_epoch: int = 1000,
    ) -> None:
        super().__init__(steps_per_epoch)
        self.classes, self.features, self.samples, self.mean, self.spread, self.seed = (
            classes,
            features,
            samples,
            mean,
            spread,
            seed,
        )
        self.check_sizes("features")
        self.check_sizes("classes", least=2)
        self.check_sizes("samples", least=classes)

    def draw(self) -> Batch:
        """Draw.

        Returns:
            Drawn in float32 (another width would draw other numbers), given in torch's default dtype.
        """
        generator = torch.Generator().manual_seed(self.seed)
        centers = torch.randn(self.classes, self.features, generator=generator, dtype=torch.float32)
        noise = torch.randn(self.samples, self.features, generator=generator, dtype=torch.float32)
        y = torch.arange(self.samples) % self.classes
        return Batch((self.mean + self.spread * centers[y] + noise).to(torch.get_default_dtype()), y)
