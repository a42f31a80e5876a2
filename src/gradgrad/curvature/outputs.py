"""A loss cut in two at the network's outputs, for the Gauss-Newton matrix."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from gradgrad.curvature.training_loss import Loss
from gradgrad.errors import UsageError, some


class Halves(NamedTuple):
    """A loss as a function of outputs.

    Attributes:
        model: maps a batch to outputs.
        loss: maps outputs and batch to the scalar.
    """

    model: Callable[[Any], Tensor]
    loss: Callable[[Tensor, Any], Tensor]


def halves(module: LightningModule, loss: Loss) -> Halves:
    """Cut a loss at the outputs of the network that it calls.

    The network is the module itself, if ``loss`` calls it as ``self(x)``, else the submodule that it calls last (the head); calls
    that the loss does not depend on (for a metric, say) are passed over. Its outputs are what the usual losses are convex in;
    what else the loss takes from the parameters is no part of the matrix.

    Args:
        module: anyone's.
        loss: of the module.

    Returns:
        The two halves; ask for a batch's outputs first. Asking raises UsageError where there is not one call of a network.
    """
    children = [child for child in module.children() if any(True for _ in child.parameters())]
    networks: list[nn.Module] = [module, *children]
    chosen: list[tuple[nn.Module, int]] = []

    def model(batch: Any) -> Tensor:
        calls = _calls(networks, loss, batch)
        network = module if calls[module] else next((last for last in reversed(calls) if calls[last]), module)
        found = calls[network]
        if len(found) != 1:
            raise UsageError(_sentence(module, len(found)))
        ((place, outputs),) = found.items()
        chosen[:] = [(network, place)]
        return outputs

    def rest(outputs: Tensor, batch: Any) -> Tensor:
        network, place = chosen[0]
        made: list[None] = []

        def replace(_network: nn.Module, _inputs: Any, output: Any) -> Any:
            made.append(None)
            return outputs if len(made) == place + 1 else output

        handle = network.register_forward_hook(replace)
        try:
            return loss(batch)
        finally:
            handle.remove()

    return Halves(model, rest)


def _calls(networks: list[nn.Module], loss: Loss, batch: Any) -> dict[nn.Module, dict[int, Tensor]]:
    """Find the outputs that the loss depends on, by network, the one called last at the end, and by number of the call."""
    made: dict[nn.Module, list[Any]] = {network: [] for network in networks}

    def seen(network: nn.Module, _inputs: Any, output: Any) -> None:
        made[network] = [*made.pop(network), output]

    handles = [network.register_forward_hook(seen) for network in networks]
    try:
        value = loss(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {network: _connected(value, outputs) for network, outputs in made.items()}


def _connected(value: Tensor, outputs: list[Any]) -> dict[int, Tensor]:
    found = {i: output for i, output in enumerate(outputs) if isinstance(output, Tensor) and output.requires_grad}
    if not found or not value.requires_grad:
        return {}
    slopes = torch.autograd.grad(value, list(found.values()), retain_graph=True, allow_unused=True)
    return {i: output for (i, output), slope in zip(found.items(), slopes, strict=True) if slope is not None}


def _sentence(module: LightningModule, calls: int) -> str:
    children = some(name for name, _ in module.named_children())
    return (
        f"the Gauss-Newton matrix is cut at the network's outputs; the loss of {type(module).__name__} depends on {calls}.\n"
        f"expected: one call of self(x), or of the submodule that comes last (submodules: {children}), that gives a tensor\n"
        "write:    operator: hessian, or a loss(batch) that calls self(x) once"
    )
