"""What an optimizer of the inner loop is: a transform without state of its own, differentiable in everything, rates included."""

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
