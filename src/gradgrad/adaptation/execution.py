"""How many tasks are computed: all at once, some at a time, or one after another. The numbers are the same."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from gradgrad.adaptation.compilation import autocast_state, compiled
from gradgrad.adaptation.inner_optimizer import Tensors
from gradgrad.adaptation.learner import Learner
from gradgrad.batches import TaskBatch
from gradgrad.derivatives.double_backward import double_backward, full_precision
from gradgrad.derivatives.params import ordinary
from gradgrad.errors import UsageError

Mode = Literal["vmap", "chunked", "loop"]
Randomness = Literal["error", "different", "same"]
Told = tuple[Any, Any]


class Objective(Protocol):
    """A hashable function of meta-parameters and one task: what is minimized, and what else is worth knowing, as tensors."""

    @property
    def learner(self) -> Learner:
        """Whose parameters are meta-learned."""

    @property
    def stacked(self) -> bool:
        """Whether it takes tasks with their leading dimension."""

    def __call__(self, meta: Tensors, tasks: TaskBatch, weights: Tensor | None = None) -> Told:
        """Evaluate."""


@dataclass(frozen=True)
class Execution:
    """Run a function of one task on many.

    Args:
        mode: ``vmap`` all tasks at once; ``chunked`` by ``vmap``, ``chunk_size`` at a time, in bounded memory; ``loop`` one after
            another without ``torch.func``.
        chunk_size: for ``chunked``; 8 is a guess.
        compile: whether to compile the whole meta-gradient by ``torch.compile``: seconds once, then several times faster.
        randomness: what ``torch.func.vmap`` does with random numbers in the network.

    Raises:
        UsageError: settings that exclude one another.
    """

    mode: Mode = "vmap"
    chunk_size: int = 8
    compile: bool = False
    randomness: Randomness = "error"
    _compiled: dict[Any, Callable[..., Any]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.mode not in ("vmap", "chunked", "loop"):
            raise UsageError(f"mode is {self.mode!r}; expected vmap, chunked or loop.")
        if self.chunk_size < 1:
            raise UsageError(f"chunk_size is {self.chunk_size}; expected 1 or more tasks at a time.")
        if self.randomness == "same" and self.mode != "vmap":
            raise UsageError(
                f"randomness: same needs all tasks at once, not mode {self.mode}.\nwrite:    mode: vmap, or randomness: different"
            )
        if self.compile and self.mode == "loop":
            raise UsageError(
                "mode loop cannot be compiled: it exists for what torch.func refuses.\nwrite:    mode: vmap, or compile: false"
            )

    def chunks(self, tasks: TaskBatch) -> Iterator[TaskBatch]:
        """Cut a batch of tasks.

        Args:
            tasks: T of them.

        Yields:
            Parts of it, in order; with ``loop`` of one task each.
        """
        count = len(tasks.support_x)
        size = {"vmap": count, "chunked": self.chunk_size, "loop": 1}[self.mode]
        if size >= count:
            yield tasks
            return
        for chunk in zip(*(torch.split(part, size) for part in tasks), strict=True):
            yield TaskBatch(*chunk)

    def gradient(self, objective: Objective, meta: Tensors, tasks: TaskBatch, shared: Tensor | None = None) -> tuple[Any, ...]:
        """Differentiate the mean over tasks.

        Args:
            objective: of one task, or of many if it is ``stacked``.
            meta: meta-parameters; they require gradients.
            tasks: T of them.
            shared: handed on to the objective.

        Returns:
            The gradient by name, and what the objective tells beside its value, with a leading dimension of T.
        """
        count, total, told = len(tasks.support_x), {}, []
        for chunk in self.chunks(tasks):
            gradients, chunk_told = self._chunk_gradient(objective, meta, chunk, shared)
            told.append(chunk_told)
            share = len(chunk.support_x) / count
            if share == 1:
                total = gradients
            elif not total:
                total = {name: g * share for name, g in gradients.items()}
            else:
                for name, g in gradients.items():
                    total[name].add_(g, alpha=share)
        return total, *joined(told)

    def _chunk_gradient(
        self, objective: Objective, meta: Tensors, chunk: TaskBatch, shared: Tensor | None
    ) -> tuple[Tensors, Any]:
        if self.compile:
            return self._compiled_gradient(objective, meta, chunk, shared)
        if self.mode == "loop":
            with double_backward("the meta-gradient", autocast=True):
                loss, told = objective(meta, TaskBatch(*(part[0] for part in chunk)), shared)
                gradients = _autograd(loss, meta)
            return gradients, tree_map(lambda tensor: tensor[None], told)
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            losses, told = self._over_tasks(objective, meta, chunk, shared)
            return _autograd(losses.mean(), meta), told

    def _compiled_gradient(self, objective: Objective, meta: Tensors, chunk: TaskBatch, shared: Tensor | None) -> tuple[Any, Any]:
        # Everything that the program depends on is in the key: comparing here costs a tenth of what TorchDynamo's guards do.
        constants = objective.learner.constants()
        inputs = [*meta.values(), *constants.values(), *chunk, *([] if shared is None else [shared])]
        kinds = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        training = tuple(module.training for module in objective.learner.modules)
        key = (objective, tuple(meta), kinds, inputs[0].device, training, autocast_state(inputs[0].device.type))
        if key not in self._compiled:
            with sdpa_kernel(SDPBackend.MATH):
                self._compiled[key] = compiled(partial(self._by_func, objective, [*meta], [*constants]), inputs)
        with torch.no_grad(), full_precision():  # what autocast does has been traced
            found = self._compiled[key](*inputs)
        return dict(zip(meta, found, strict=False)), tuple(found[len(meta) :])

    def _by_func(self, objective: Objective, names: list[str], constant_names: list[str], *inputs: Tensor) -> list[Tensor]:
        of_meta, of_constants = len(names), len(names) + len(constant_names)
        constants = dict(zip(constant_names, inputs[of_meta:of_constants], strict=True))
        chunk, shared = TaskBatch(*inputs[of_constants : of_constants + 4]), (*inputs[of_constants + 4 :], None)[0]

        def mean(meta: Tensors) -> Told:
            losses, told = self._over_tasks(objective, {**meta, **constants}, chunk, shared)
            return losses.mean(), told

        gradients, told = torch.func.grad(mean, has_aux=True)(dict(zip(names, inputs[:of_meta], strict=True)))
        return [*gradients.values(), *told]

    def _over_tasks(self, objective: Objective, meta: Tensors, chunk: TaskBatch, shared: Tensor | None) -> Told:
        if objective.stacked:
            return objective(meta, chunk, shared)
        told: Told = vmap(lambda task: objective(meta, task, shared), randomness=self.randomness)(chunk)
        return told

    def mean(self, objective: Objective, meta: Tensors, tasks: TaskBatch) -> Tensor:
        """Average over tasks, differentiably.

        Args:
            objective: of one task.
            meta: meta-parameters.
            tasks: T of them.

        Returns:
            Scalar, with a graph to ``meta``.
        """
        if self.mode != "loop":
            with sdpa_kernel(SDPBackend.MATH):
                return torch.cat([self._over_tasks(objective, meta, chunk, None)[0] for chunk in self.chunks(tasks)]).mean()
        with double_backward("the meta-loss", autocast=True):
            one = [TaskBatch(*(part[0] for part in chunk)) for chunk in self.chunks(tasks)]
            return torch.stack([objective(meta, task, None)[0] for task in one]).mean()

    def map(self, function: Callable[[TaskBatch], Any], tasks: TaskBatch) -> Any:
        """Evaluate without a graph, also under inference mode.

        Args:
            function: maps one task to tensors.
            tasks: T of them.

        Returns:
            The tensors, with a leading dimension of T.
        """
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return joined([self._map_chunk(function, chunk) for chunk in self.chunks(tasks)])

    def _map_chunk(self, function: Callable[[TaskBatch], Any], chunk: TaskBatch) -> Any:
        if self.mode == "loop":
            with double_backward("adaptation", autocast=True):
                told = function(TaskBatch(*(ordinary(part)[0] for part in chunk)))
            return tree_map(lambda tensor: tensor.detach()[None], told)
        return vmap(function, randomness=self.randomness)(chunk)


def _autograd(loss: Tensor, meta: Tensors) -> Tensors:
    gradients = torch.autograd.grad(loss, list(meta.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(meta, gradients, strict=True))


def joined(parts: list[Any]) -> Any:
    """Join what chunks tell.

    Args:
        parts: the same structure of tensors each, with a leading dimension of tasks.

    Returns:
        The structure, with the parts one behind the other.
    """
    return parts[0] if len(parts) == 1 else tree_map(lambda *tensors: torch.cat(tensors), *parts)
