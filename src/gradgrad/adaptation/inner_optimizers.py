"""Optimizers of the inner loop: transforms without state of their own, differentiable in everything, rates included."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from gradgrad.errors import UsageError

Tensors = dict[str, Tensor]
State = tuple[Tensors, ...]


class InnerOptimizer(nn.Module, ABC):
    r"""Take one step of the inner loop, :math:`\theta_i \leftarrow \theta_i - \alpha_i d_i`, with a direction d of the subclass.

    The rate :math:`\alpha` can be learned with the initialization: one per tensor (Antoniou et al. 2019, ICLR), or one per number
    (Meta-SGD; Li et al. 2017, arXiv:1707.09835); either can differ from step to step. Beyond the steps that were trained the last
    step's rate goes on.

    Args:
        lr: the rate, or where learned rates begin. 0.01 is that of the sinusoid of Finn et al. (2017, ICML).
        learn: ``tensor``, ``element`` or null; what has a learned rate of its own.
        per_step: whether each step has learned rates of its own.
        clip_norm: largest Euclidean norm of a task's inner gradient, over all that adapts; null does not clip.

    Raises:
        UsageError: a setting out of range.
    """

    elementwise = False
    """Whether ``direction`` treats each number by itself, so that it can be given many tasks at once."""

    def __init__(
        self,
        lr: float = 0.01,
        learn: Literal["tensor", "element"] | None = None,
        per_step: bool = False,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        if not 0 < lr < float("inf"):
            raise UsageError(f"{who} got lr {lr}; expected a positive number, for example 0.01.")
        if learn not in (None, "tensor", "element"):
            raise UsageError(f"{who} got learn {learn!r}; expected tensor, element or null.")
        if per_step and learn is None:
            raise UsageError(f"{who} got per_step without learned rates.\nwrite:    learn: tensor, or per_step: false")
        if clip_norm is not None and not clip_norm > 0:
            raise UsageError(f"{who} got clip_norm {clip_norm}; expected a positive number, or null for no clipping.")
        self.lr, self.learn, self.per_step, self.clip_norm = lr, learn, per_step, clip_norm
        self.learned = nn.ParameterDict()

    def prepare(self, params: Tensors, steps: int) -> None:
        """Make the learned rates, all equal to ``lr``.

        Args:
            params: what adapts, by name.
            steps: number of steps that are trained.
        """
        if self.learn is None:
            return
        for name, param in params.items():
            shape = (*((steps,) if self.per_step else ()), *(param.shape if self.learn == "element" else ()))
            rate = torch.full(shape, self.lr, dtype=param.dtype, device=param.device)
            self.learned[name.replace(".", "/")] = nn.Parameter(rate)  # a parameter's name may hold no dot

    def rates(self) -> Tensors:
        """Give the learned rates.

        Returns:
            By the name of the parameter they belong to; shape ``()`` or that of the parameter, with a leading dimension of steps
            where each has its own; empty where none is learned.
        """
        return {name.replace("/", "."): rate for name, rate in self.learned.items()}

    @abstractmethod
    def init(self, params: Tensors) -> State:
        """Make the state before the first step.

        Args:
            params: what adapts.

        Returns:
            Tensors shaped like ``params``, as many groups as the optimizer keeps.
        """

    @abstractmethod
    def direction(self, gradients: Tensors, state: State, step: int) -> tuple[Tensors, State]:
        """Turn a gradient into a direction.

        Args:
            gradients: of the inner loss.
            state: after the step before.
            step: number of steps done before, from 0.

        Returns:
            The direction, and the state after this step.
        """

    def update(self, params: Tensors, gradients: Tensors, state: State, step: int, rates: Tensors) -> tuple[Tensors, State]:
        """Take a step.

        Args:
            params: what adapts.
            gradients: of the inner loss, same names and shapes.
            state: after the step before.
            step: number of steps done before, from 0.
            rates: as :meth:`rates` gives them, or other tensors in their place.

        Returns:
            Parameters and state after the step; nothing is changed in place.
        """
        directions, state = self.direction(self.clip(gradients), state, step)
        return {name: p - self._rate(rates.get(name), step) * directions[name] for name, p in params.items()}, state

    def clip(self, gradients: Tensors) -> Tensors:
        """Shorten a gradient that is longer than ``clip_norm``.

        Args:
            gradients: by name.

        Returns:
            The same direction.
        """
        return gradients if self.clip_norm is None else clipped(gradients, self.clip_norm)

    def _rate(self, learned: Tensor | None, step: int) -> Tensor | float:
        if learned is None:
            return self.lr
        return learned[min(step, len(learned) - 1)] if self.per_step else learned


def clipped(gradients: Tensors, norm: float) -> Tensors:
    """Shorten a gradient that is too long.

    Args:
        gradients: by name.
        norm: the largest Euclidean norm over all of them.

    Returns:
        The same direction. Differentiable also at a gradient of zero: the root is taken of what is ``norm`` squared at least.
    """
    squared = torch.stack([g.square().sum() for g in gradients.values()]).sum()
    scale = norm / squared.clamp_min(norm**2).sqrt()
    return {name: g * scale for name, g in gradients.items()}


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
