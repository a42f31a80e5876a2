"""A network, a criterion and an inner optimizer: all that the meta-gradients of a family have in common."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.conv import _ConvNd

from gradgrad.adaptation.adapt import InnerGradient, by_autograd, by_func, inner_path
from gradgrad.adaptation.inner_optimizer import InnerOptimizer, Tensors
from gradgrad.adaptation.over_tasks import OverTasks
from gradgrad.batches import TaskBatch
from gradgrad.errors import UsageError

Support = tuple[Tensor, Tensor]
NETWORK, RATES = "network.", "rates."


class Parts(NamedTuple):
    """Meta-parameters by what becomes of them.

    Attributes:
        fast: what adapts, by its name in the network.
        slow: the rest of the network that is meta-learned.
        rates: learned rates of the inner optimizer.
    """

    fast: Tensors
    slow: Tensors
    rates: Tensors


class Score(NamedTuple):
    """How well queries are answered.

    Attributes:
        loss: mean over queries.
        accuracy: share of queries whose class is right; NaN in regression.
        output: of the network.
    """

    loss: Tensor
    accuracy: Tensor
    output: Tensor


@dataclass(frozen=True)
class Learner:
    r"""What learns a task.

    Its methods are pure functions of the meta-parameters ``meta``: those of the network as ``network.<name>`` and learned rates
    as ``rates.<name>``. A network's parameter that is not in ``meta``, because it is not meta-learned, is taken as it is.

    Args:
        network: the initialization.
        criterion: maps outputs and targets to the mean loss.
        optimizer: of the inner loop.
        names: of the parameters that adapt.
        steps: of the inner loop in training.
        proximity: weight :math:`\lambda` of :math:`\frac{\lambda}{2} |\phi - \theta|^2` in the inner loss (iMAML); 0: none.
    """

    network: nn.Module
    criterion: Callable[[Tensor, Tensor], Tensor]
    optimizer: InnerOptimizer
    names: tuple[str, ...]
    steps: int
    proximity: float = 0.0

    def meta(self) -> Tensors:
        """Name everything that is meta-learned.

        Returns:
            Trainable parameters of the network, and learned rates.
        """
        network = {NETWORK + name: p for name, p in self._named.items() if p.requires_grad}
        return network | {RATES + name: p for name, p in self.optimizer.rates().items()}

    @cached_property
    def _named(self) -> Tensors:
        return dict(self.network.named_parameters())  # a walk through all modules

    @cached_property
    def modules(self) -> list[nn.Module]:
        """All modules of the network."""
        return list(self.network.modules())

    @cached_property
    def _buffered(self) -> bool:
        return any(True for _ in self.network.buffers())

    def constants(self) -> Tensors:
        """Name everything in the network that is not meta-learned.

        Returns:
            Its frozen parameters and its buffers, named as :meth:`meta` names the others.
        """
        frozen = {NETWORK + name: p for name, p in self._named.items() if not p.requires_grad}
        return frozen | {NETWORK + name: b for name, b in self.network.named_buffers()} if self._buffered else frozen

    @cached_property
    def convolves(self) -> bool:
        """Whether there are convolutions: of many tasks' own weights at once they are slow."""
        return any(isinstance(layer, _ConvNd) for layer in self.modules)

    @cached_property
    def tied(self) -> bool:
        """Whether the network has a parameter under two names."""
        return len(self._named) < len(list(self.network.named_parameters(remove_duplicate=False)))

    def parts(self, meta: Tensors) -> Parts:
        """Tell apart what adapts and what does not.

        Args:
            meta: as :meth:`meta` gives it, or other tensors in their place.

        Returns:
            The three groups.
        """
        given = {name.removeprefix(NETWORK): p for name, p in meta.items() if name.startswith(NETWORK)}
        missing = [name for name in self.names if name not in given]
        if missing:  # adapted, but not meta-learned: a context
            given |= {name: self._named[name] for name in missing}
        fast = {name: given.pop(name) for name in self.names}
        return Parts(fast, given, {name.removeprefix(RATES): p for name, p in meta.items() if name.startswith(RATES)})

    def answer(self, fast: Tensors, slow: Tensors, x: Tensor) -> Tensor:
        """Evaluate the network of one task.

        Args:
            fast: adapted parameters.
            slow: the others.
            x: inputs, shape ``(Q, ...)``.

        Returns:
            Outputs, shape ``(Q, outputs)``.
        """
        output: Tensor = functional_call(self.network, {**slow, **fast}, (x,), tie_weights=self.tied)
        return output

    def score(self, fast: Tensors, slow: Tensors, x: Tensor, y: Tensor) -> Score:
        """Judge one task.

        Args:
            fast: adapted parameters.
            slow: the others.
            x: inputs, shape ``(Q, ...)``.
            y: targets, shape ``(Q, 1)``, or class numbers, shape ``(Q,)``.

        Returns:
            Loss and accuracy as scalars.
        """
        output = self.answer(fast, slow, x)
        loss = self._judge(output, y)
        if y.is_floating_point():
            return Score(loss, torch.full_like(loss, torch.nan), output)
        return Score(loss, (output.detach().argmax(-1) == y).to(loss.dtype).mean(), output)

    def _judge(self, output: Tensor, y: Tensor) -> Tensor:
        if y.is_floating_point() and output.shape != y.shape:  # PyTorch would compare each with each, and only warn
            raise UsageError(
                f"the network gives outputs of shape {tuple(output.shape)} for targets of shape {tuple(y.shape)}.\n"
                "expected: the same shape, (samples, outputs)"
            )
        return self.criterion(output, y)

    def path(
        self,
        parts: Parts,
        support: Support,
        steps: int,
        first_order: bool = False,
        checkpoint: bool = False,
        loop: bool = False,
    ) -> Iterator[Tensors]:
        """Adapt to one task.

        Args:
            parts: of the meta-parameters.
            support: inputs and targets.
            steps: number of steps.
            first_order: take inner gradients for constants.
            checkpoint: recompute each step in the backward pass.
            loop: differentiate by ``torch.autograd`` instead of ``torch.func``.

        Returns:
            Iterator over adapted parameters after 0, 1, ... steps.
        """
        gradient: InnerGradient = by_autograd if loop or checkpoint else by_func
        return inner_path(
            self._inner_loss(parts), parts.fast, support, steps, self.optimizer, gradient, parts.rates, first_order, checkpoint
        )

    def _inner_loss(self, parts: Parts) -> Callable[[Tensors, Support], Tensor]:
        def loss(fast: Tensors, support: Support) -> Tensor:
            x, y = support
            value = self._judge(self.answer(fast, parts.slow, x), y)
            if self.proximity:
                distance = torch.stack([(p - parts.fast[name]).square().sum() for name, p in fast.items()]).sum()
                value = value + self.proximity / 2 * distance
            return value

        return loss

    def stacked_path(
        self,
        parts: Parts,
        tasks: TaskBatch,
        steps: int,
        first_order: bool = False,
        checkpoint: bool = False,
        randomness: str = "error",
    ) -> Iterator[Tensors]:
        """Adapt to T tasks at once by ``torch.autograd``.

        The gradient of the sum of T losses, each of parameters of its own, is the T gradients. On small networks that costs less
        than ``torch.func.grad`` under ``vmap``, and it can be checkpointed, which ``torch.func`` cannot.

        Args:
            parts: of the meta-parameters.
            tasks: T of them.
            steps: number of steps.
            first_order: take inner gradients for constants.
            checkpoint: recompute each step in the backward pass.
            randomness: as ``torch.func.vmap`` takes it.

        Returns:
            Iterator over adapted parameters with a leading dimension of T.
        """
        one = self._inner_loss(parts)

        def total(fast: Tensors, support: Support) -> Tensor:
            losses: Tensor = vmap(one, randomness=randomness)(fast, support)
            return losses.sum()

        fast = {name: p.expand(len(tasks.support_x), *p.shape) for name, p in parts.fast.items()}
        support = (tasks.support_x, tasks.support_y)
        optimizer = OverTasks(self.optimizer)
        gradient = partial(by_autograd, checked=False)  # vmap refuses what the check looks for
        return inner_path(total, fast, support, steps, optimizer, gradient, parts.rates, first_order, checkpoint)
