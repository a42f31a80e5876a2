"""Optimizers of the inner loop."""

from typing import Literal

import torch

from gradgrad.adaptation.inner_optimizer import InnerOptimizer, State, Tensors
from gradgrad.errors import UsageError


class SGD(InnerOptimizer):
    r"""Gradient descent, :math:`d = g`: the inner loop of MAML (Finn et al. 2017, ICML); with ``learn: element`` Meta-SGD."""

    elementwise = True

    def init(self, params: Tensors) -> State:
        """Keep nothing.

        Args:
            params: unused.

        Returns:
            No groups.
        """
        return ()

    def direction(self, gradients: Tensors, state: State, step: int) -> tuple[Tensors, State]:
        """Take the gradient.

        Args:
            gradients: of the inner loss.
            state: no groups.
            step: unused.

        Returns:
            The gradient, and no groups.
        """
        return gradients, state


class Momentum(InnerOptimizer):
    r"""Heavy ball, :math:`m \leftarrow \mu m + g`, :math:`d = m`, or with Nesterov's form :math:`d = g + \mu m` (as in PyTorch).

    Args:
        lr: as in :class:`InnerOptimizer`.
        momentum: :math:`\mu`; 0.9 is the field's habit.
        nesterov: whether to look ahead.
        learn: as in :class:`InnerOptimizer`.
        per_step: as in :class:`InnerOptimizer`.
        clip_norm: as in :class:`InnerOptimizer`.

    Raises:
        UsageError: a setting out of range.
    """

    elementwise = True

    def __init__(
        self,
        lr: float = 0.01,
        momentum: float = 0.9,
        nesterov: bool = False,
        learn: Literal["tensor", "element"] | None = None,
        per_step: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, learn, per_step, clip_norm)
        if not 0 <= momentum < 1:
            raise UsageError(f"Momentum got momentum {momentum}; expected a number from 0 to below 1, for example 0.9.")
        self.momentum, self.nesterov = momentum, nesterov

    def init(self, params: Tensors) -> State:
        """Begin without momentum.

        Args:
            params: what adapts.

        Returns:
            One group of zeros.
        """
        return ({name: torch.zeros_like(p) for name, p in params.items()},)

    def direction(self, gradients: Tensors, state: State, step: int) -> tuple[Tensors, State]:
        """Gather momentum.

        Args:
            gradients: of the inner loss.
            state: the momentum.
            step: unused.

        Returns:
            The direction and the new momentum.
        """
        moved = {name: self.momentum * state[0][name] + g for name, g in gradients.items()}
        if not self.nesterov:
            return moved, (moved,)
        return {name: g + self.momentum * moved[name] for name, g in gradients.items()}, (moved,)


class Adam(InnerOptimizer):
    r"""Adam, :math:`d = \hat m / \sqrt{\hat v + \epsilon}` (Kingma and Ba 2015, ICLR), with :math:`\epsilon` inside the root.

    Outside, as PyTorch has it, the derivative of the root is infinite at a gradient of zero, and the meta-gradient NaN.

    Args:
        lr: as in :class:`InnerOptimizer`; 0.001 is Adam's own.
        betas: decay of the first and the second moment; Adam's own. Reptile takes 0 for the first.
        eps: in units of a squared gradient; 1e-8 acts on gradients below 1e-4.
        learn: as in :class:`InnerOptimizer`.
        per_step: as in :class:`InnerOptimizer`.
        clip_norm: as in :class:`InnerOptimizer`.

    Raises:
        UsageError: a setting out of range.
    """

    elementwise = True

    def __init__(
        self,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        learn: Literal["tensor", "element"] | None = None,
        per_step: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, learn, per_step, clip_norm)
        if not all(0 <= beta < 1 for beta in betas) or not eps > 0:
            raise UsageError(f"Adam got betas {list(betas)} and eps {eps}; expected betas from 0 to below 1, eps above 0.")
        self.betas, self.eps = betas, eps

    def init(self, params: Tensors) -> State:
        """Begin with moments of zero.

        Args:
            params: what adapts.

        Returns:
            Two groups of zeros.
        """
        return tuple({name: torch.zeros_like(p) for name, p in params.items()} for _ in range(2))

    def direction(self, gradients: Tensors, state: State, step: int) -> tuple[Tensors, State]:
        """Average the moments, and correct their bias.

        Args:
            gradients: of the inner loss.
            state: first and second moment.
            step: number of steps done before, from 0.

        Returns:
            The direction and the new moments.
        """
        (b1, b2), (first, second) = self.betas, state
        first = {name: b1 * first[name] + (1 - b1) * g for name, g in gradients.items()}
        second = {name: b2 * second[name] + (1 - b2) * g.square() for name, g in gradients.items()}
        c1, c2 = 1 - b1 ** (step + 1), 1 - b2 ** (step + 1)
        return {name: (first[name] / c1) / (second[name] / c2 + self.eps).sqrt() for name in gradients}, (first, second)
