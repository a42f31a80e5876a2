"""How far a long measurement is."""

from contextlib import AbstractContextManager

from torch import Tensor
from tqdm import tqdm
from typing_extensions import override

from gradgrad.derivatives.operators import LinearOperator

PATIENCE = 2.0  # seconds without a bar; a guess


class Watched(LinearOperator):
    """An operator whose products move a progress bar.

    Args:
        operator: to be watched.
    """

    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device
        self._bar = tqdm(desc="Hessian-vector products", unit="", leave=False, delay=PATIENCE)

    @override
    def held(self) -> AbstractContextManager[None]:
        """Hold what is watched.

        Returns:
            What the operator gives.
        """
        return self.operator.held()

    @override
    def _matmat(self, vectors: Tensor) -> Tensor:
        products = self.operator.matmat(vectors)
        self._bar.update(vectors.shape[1])
        return products

    def __del__(self) -> None:
        """Take the bar away."""
        self._bar.close()
