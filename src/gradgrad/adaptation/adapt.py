"""The inner loop as a pure function."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint as recomputed

from gradgrad.adaptation.inner_optimizer import InnerOptimizer, State, Tensors
from gradgrad.derivatives.double_backward import double_backward, refuse_silent_losses
from gradgrad.derivatives.params import entries, ordinary
from gradgrad.errors import UsageError

Loss = Callable[[Tensors, Any], Tensor]
InnerGradient = Callable[[Loss, Tensors, Any, bool], Tensors]


def adapt(
    loss: Loss,
    params: Tensors,
    support: Any,
    steps: int,
    optimizer: InnerOptimizer,
    first_order: bool = False,
    checkpoint: bool = False,
    *,
    trajectory: bool = False,
    loop: bool = False,
) -> Any:
    r"""Adapt parameters to a task, :math:`\theta_{k+1} = U(\theta_k, \nabla L(\theta_k))`.

    The result is a differentiable function of ``params``, of the optimizer's learned rates and of the support set, unless
    gradients are off around the call; its values are the same under ``no_grad`` and inference mode. Nothing is changed in
    place, and nothing accumulates in ``.grad``. It can be used under ``torch.func.vmap``, except with ``loop`` or ``checkpoint``.

    Args:
        loss: maps parameters and the support set to a scalar: the mean over samples. (The TensorFlow code of Finn et al. sums
            over ways, so that its rates are to be multiplied by the number of ways.)
        params: tensors by name, for example ``dict(network.named_parameters())``.
        support: handed on to ``loss``.
        steps: number of steps, 0 or more.
        optimizer: makes the steps.
        first_order: take inner gradients for constants, as first-order MAML does.
        checkpoint: recompute each step in the backward pass instead of keeping its graph; memory no longer grows with the graph
            of ``steps``, at one more inner gradient each. Needs ``torch.autograd``, and so does as if ``loop``.
        trajectory: return the parameters after 0, 1, ..., ``steps`` steps, as a list.
        loop: by ``torch.autograd.grad(..., create_graph=not first_order)``, for what ``torch.func`` refuses.

    Returns:
        Adapted parameters, names and shapes of ``params``; or the list of them.

    Raises:
        UsageError: no parameters, no number of steps, no inner optimizer or one whose rates are not made yet, ``loop`` or
            ``checkpoint`` under ``torch.func``, or a network that PyTorch cannot differentiate twice.
    """
    entries(params, "adapt")
    by_graph = loop or checkpoint
    _check(steps, optimizer, by_graph)
    keep = torch.is_grad_enabled()
    rates = optimizer.rates() if keep else detached(optimizer.rates())
    # Fused attention has no second derivative.
    with double_backward("adapt", autocast=True) if by_graph else sdpa_kernel(SDPBackend.MATH):
        if by_graph:
            support = tree_map_only(Tensor, ordinary, support)
            if not keep:
                first_order, params = True, {name: ordinary(p).detach() for name, p in params.items()}
        gradient = by_autograd if by_graph else by_func
        path = inner_path(loss, params, support, steps, optimizer, gradient, rates, first_order, checkpoint)
        if trajectory:
            return list(path)
        for adapted in path:
            params = adapted
    return params


def _check(steps: int, optimizer: InnerOptimizer, by_graph: bool) -> None:
    if not isinstance(steps, int) or steps < 0:
        raise UsageError(f"adapt got steps {steps}; expected a whole number, 0 or more.")
    if not isinstance(optimizer, InnerOptimizer):
        raise UsageError(
            f"adapt got an optimizer of type {type(optimizer).__name__}, which changes parameters in place.\n"
            "write:    gradgrad.adaptation.SGD(lr=...), Momentum or Adam"
        )
    if optimizer.learn is not None and not optimizer.rates():
        raise UsageError(
            f"adapt got {type(optimizer).__name__} with learned rates that are not made yet.\n"
            "write:    optimizer.prepare(params, steps), once; its parameters() are the rates"
        )
    if by_graph and torch._C._functorch.peek_interpreter_stack() is not None:
        raise UsageError(
            "adapt got loop or checkpoint under torch.func (vmap or grad), which cannot see torch.autograd's graph.\n"
            "write:    loop=False, checkpoint=False there, or no torch.func around it"
        )


def inner_path(
    loss: Loss,
    params: Tensors,
    support: Any,
    steps: int,
    optimizer: InnerOptimizer,
    gradient: InnerGradient,
    rates: Tensors,
    first_order: bool = False,
    checkpoint: bool = False,
) -> Iterator[Tensors]:
    """Walk along the inner loop.

    Args:
        loss: maps parameters and the support set to a scalar.
        params: where it begins.
        support: handed on to ``loss``.
        steps: number of steps.
        optimizer: makes the steps.
        gradient: :func:`by_func` or :func:`by_autograd`.
        rates: learned rates by name.
        first_order: take inner gradients for constants.
        checkpoint: recompute each step in the backward pass.

    Yields:
        Parameters after 0, 1, ... steps.
    """
    state = optimizer.init(params)
    step = partial(_step, loss, support, optimizer, gradient, rates, first_order)
    yield params
    for number in range(steps):
        if checkpoint:
            params, state = recomputed(_alone, step, number, params, state, use_reentrant=False)
        else:
            params, state = step(number, params, state)
        yield params


def _alone(step: Callable[..., tuple[Tensors, State]], number: int, params: Tensors, state: State) -> tuple[Tensors, State]:
    """Take a step in surroundings of its own: the backward pass that takes it again may come when all else is over."""
    with double_backward("adapt", autocast=True):
        return step(number, params, state)


def _step(
    loss: Loss,
    support: Any,
    optimizer: InnerOptimizer,
    gradient: InnerGradient,
    rates: Tensors,
    first_order: bool,
    number: int,
    params: Tensors,
    state: State,
) -> tuple[Tensors, State]:
    return optimizer.update(params, gradient(loss, params, support, first_order), state, number, rates)


def by_func(loss: Loss, params: Tensors, support: Any, first_order: bool) -> Tensors:
    """Differentiate by ``torch.func``: works under ``vmap``, compile, no_grad and inference mode.

    Attention must be computed by its MATH kernel, which the caller sees to once for all steps.

    Args:
        loss: maps parameters and the support set to a scalar.
        params: where.
        support: handed on to ``loss``.
        first_order: give constants.

    Returns:
        The gradient; zeros where ``loss`` does not use a parameter.
    """
    if first_order:  # of constants, so that no second graph is made
        params = {name: p.detach() for name, p in params.items()}
    gradients: Tensors = torch.func.grad(loss)(params, support)
    return {name: g.detach() for name, g in gradients.items()} if first_order else gradients


def by_autograd(loss: Loss, params: Tensors, support: Any, first_order: bool, checked: bool = True) -> Tensors:
    """Differentiate by ``torch.autograd.grad(..., create_graph=not first_order)``, the form that everyone knows.

    Gradients must be on, and inference mode off; see :func:`gradgrad.derivatives.double_backward.double_backward`.

    Args:
        loss: maps parameters and the support set to a scalar.
        params: where.
        support: handed on to ``loss``.
        first_order: give constants.
        checked: look for what PyTorch would lose without a word; takes a walk through the graph.

    Returns:
        The gradient; zeros where ``loss`` does not use a parameter.

    Raises:
        UsageError: a loss that is no scalar, or that goes through a function without a second derivative.
    """
    connected = {name: p.requires_grad and not first_order for name, p in params.items()}
    # Another name for the same numbers: what a loss captures of the tensor itself stays a constant, as it does for torch.func.
    at = {name: p.view_as(p) if connected[name] else p.detach().requires_grad_() for name, p in params.items()}
    value = loss(at, support)
    if value.dim():
        raise UsageError(f"adapt got a loss of shape {tuple(value.shape)}; expected a scalar, for example the mean over samples.")
    if not value.requires_grad:  # nothing that adapts is used
        return {name: torch.zeros_like(p) for name, p in params.items()}
    found = torch.autograd.grad(value, list(at.values()), create_graph=not first_order, allow_unused=True, materialize_grads=True)
    if checked:
        refuse_silent_losses(value, [] if first_order else found, "adapt")
    return dict(zip(at, found, strict=True))


def detached(tensors: Tensors) -> Tensors:
    """Take tensors for constants.

    Args:
        tensors: by name.

    Returns:
        The same numbers without a graph.
    """
    return {name: tensor.detach() for name, tensor in tensors.items()}
