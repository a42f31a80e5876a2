"""Plain networks, named in YAML by ``class_path``."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
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
        init_std: draw weights from a normal distribution of this deviation, truncated at two of them, and begin with biases of
            zero; null is PyTorch's own initialization. 0.01 is that of the sinusoid network of Finn et al. (2017).
        gain: draw weights by Xavier's normal rule instead, with this gain in the hidden layers and 1 in the last, and begin with
            biases of zero. 1.9 is that of the Chebyshev regression of Cohen et al. (2021, ICLR).
        output_bias: whether the last layer has a bias; that regression's has none.

    Raises:
        UsageError: a width below 1, or two initializations.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        hidden: Sequence[int] = (50,),
        activation: Literal["tanh", "silu", "gelu", "softplus", "relu"] = "tanh",
        init_std: float | None = None,
        gain: float | None = None,
        output_bias: bool = True,
    ) -> None:
        super().__init__()
        widths = [in_features, *hidden, out_features]
        if init_std is not None and not init_std > 0:
            raise UsageError(f"MLP got init_std {init_std}; expected a positive number, or null for PyTorch's initialization.")
        if init_std is not None and gain is not None:
            raise UsageError(f"MLP got init_std {init_std} and gain {gain}, two ways to begin; write one of them.")
        if min(widths) < 1:
            raise UsageError(f"MLP got widths {widths}; every width must be at least 1, for example hidden: [50].")
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(widths[:-1]):
            layers += [nn.Linear(wide, narrow), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1], bias=output_bias))
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        for layer in linear if init_std is not None or gain is not None else []:
            if init_std is not None:
                nn.init.trunc_normal_(layer.weight, std=init_std, a=-2 * init_std, b=2 * init_std)
            else:
                nn.init.xavier_normal_(layer.weight, 1.0 if layer is linear[-1] else float(gain or 0))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            x: shape ``(B, F)``.

        Returns:
            Shape ``(B, T)``.
        """
        output: Tensor = self.layers(x)
        return output


class ContextMLP(MLP):
    """An MLP with a context vector beside its inputs: all that CAVIA adapts (Zintgraf et al. 2019, ICML).

    The vector ``context`` begins each task at zero and is not meta-learned; choose it by ``adapt: context``.

    Args:
        in_features: F, number of inputs.
        out_features: T, number of outputs.
        context: length of the vector; 5 is the paper's on sinusoids.
        hidden: width of each hidden layer.
        activation: as in :class:`MLP`.
        init_std: as in :class:`MLP`.

    Raises:
        UsageError: a width below 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        context: int = 5,
        hidden: Sequence[int] = (40, 40),
        activation: Literal["tanh", "silu", "gelu", "softplus", "relu"] = "relu",
        init_std: float | None = None,
    ) -> None:
        if context < 1:
            raise UsageError(f"ContextMLP got context {context}; expected a length of at least 1, for example 5.")
        super().__init__(in_features + context, out_features, hidden, activation, init_std)
        self.context = nn.Parameter(torch.zeros(context), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            x: shape ``(B, F)``.

        Returns:
            Shape ``(B, T)``.
        """
        return super().forward(torch.cat([x, self.context.expand(*x.shape[:-1], -1)], -1))


class DeepLinear(nn.Sequential):
    """A product of square matrices, drawn one after the other by Xavier's normal rule: linear, but not in its parameters.

    Shapes: ``(B, width)`` to ``(B, width)``.

    Args:
        width: of every layer; 50 is that of Cohen et al. (2021, ICLR).
        depth: number of layers; 20 likewise.

    Raises:
        UsageError: a size below 1.
    """

    def __init__(self, width: int = 50, depth: int = 20) -> None:
        if min(width, depth) < 1:
            raise UsageError(f"DeepLinear got width {width} and depth {depth}; both must be at least 1.")
        layers = []
        for _ in range(depth):
            layer = nn.Linear(width, width, bias=False)
            nn.init.xavier_normal_(layer.weight)
            layers.append(layer)
        super().__init__(*layers)


class Conv4(nn.Module):
    """Four convolutions, the network of few-shot classification (Vinyals et al. 2016, NeurIPS), as in Finn et al. (2017, ICML).

    Each block is a 3x3 convolution of stride 2, normalization and ReLU; then the mean over places and a linear layer. As there,
    the convolutions begin by Xavier's rule, the last layer's weights by a standard normal, and a batch is normalized by its own
    statistics with a learned shift but no scale. In the authors' code the shifts do not adapt: ``adapt: '^(?!.*norm)'``.

    Args:
        in_channels: C; the module that builds the network supplies it.
        ways: number of classes; supplied likewise.
        channels: of each convolution; 64 is the paper's on Omniglot.
        norm: ``batch`` (transductive), ``group`` (8 channels a group, a guess) or ``none``.

    Raises:
        UsageError: fewer than 1 channel, or channels that do not make groups of 8.
    """

    def __init__(
        self, in_channels: int, ways: int, channels: int = 64, norm: Literal["batch", "group", "none"] = "batch"
    ) -> None:
        super().__init__()
        if channels < 1 or (norm == "group" and channels % 8):
            raise UsageError(f"Conv4 got channels {channels}; expected at least 1, and a multiple of 8 for norm: group.")
        blocks = []
        for wide in (in_channels, channels, channels, channels):
            convolution = nn.Conv2d(wide, channels, 3, stride=2, padding=1)
            torch.nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]  # it has one
            nn.init.xavier_uniform_(convolution.weight)
            layers: OrderedDict[str, nn.Module] = OrderedDict(conv=convolution)
            if norm == "batch":
                layers["norm"] = nn.BatchNorm2d(channels, track_running_stats=False)
                layers["norm"].weight.requires_grad_(False)
            elif norm == "group":
                layers["norm"] = nn.GroupNorm(channels // 8, channels)
            layers["relu"] = nn.ReLU()
            blocks.append(nn.Sequential(layers))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, ways)
        nn.init.normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Evaluate the network.

        Args:
            x: images, shape ``(B, C, H, W)``.

        Returns:
            Class scores, shape ``(B, ways)``.
        """
        scores: Tensor = self.head(self.blocks(x).mean((-2, -1)))
        return scores
