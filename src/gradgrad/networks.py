"""Plain networks, named in YAML by ``class_path``."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from gradgrad.errors import UsageError

ACTIVATIONS = {"tanh": nn.Tanh, "silu": nn.SiLU, "gelu": nn.GELU, "softplus": nn.Softplus, "relu": nn.ReLU}


class MLP(nn.Module):
    """A multilayer perceptron; smooth unless told otherwise, because we differentiate it more than once.

    Args:
        in_features: F, number of inputs; the module that builds the network supplies it.
        out_features: T, number of outputs; supplied likewise.
        hidden: width of each hidden layer; one layer of 50 is the network of the UCI benchmark
            (Hernandez-Lobato and Adams 2015, ICML).
        activation: ``tanh`` is smooth and bounded. ``relu`` has a second derivative of zero almost everywhere.

    Raises:
        UsageError: a width below 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (50,),
        activation: Literal["tanh", "silu", "gelu", "softplus", "relu"] = "tanh",
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden, out_features]
        if min(widths) < 1:
            raise UsageError(f"MLP got widths {widths}; every width must be at least 1, for example hidden: [50].")
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(widths[:-1]):
            layers += [nn.Linear(wide, narrow), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            x: shape ``(B, F)``.

        Returns:
            Shape ``(B, T)``.
        """
        output: Tensor = self.layers(x)
        return output
