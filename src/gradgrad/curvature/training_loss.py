"""The function whose curvature is meant: a module's training loss, as a function of a batch."""

import inspect
from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn

from gradgrad.derivatives.curvature import sample_count
from gradgrad.errors import UsageError

Loss = Callable[[Any], Tensor]


def training_loss(module: LightningModule) -> Loss:
    """Find the mean loss over a batch's samples.

    It is ``loss(batch)`` where the module has such a method, else ``training_step(batch, 0)``, for modules that optimize
    automatically. Call it inside :func:`gradgrad.curvature.undisturbed`, where logging is stubbed.

    Args:
        module: anyone's.

    Returns:
        Maps a batch to a scalar with a graph.

    Raises:
        UsageError: neither can be had.
    """
    name = type(module).__name__
    if has_method(module, "loss"):
        return module.loss  # type: ignore[return-value]
    if not module.automatic_optimization:
        raise UsageError(
            f"{name} optimizes manually, so its training_step is no loss.\n"
            f"write:    def loss(self, batch) in {name}, the mean loss over the batch as a scalar"
        )

    def loss(batch: Any) -> Tensor:
        accepted = inspect.signature(module.training_step).parameters
        output = module.training_step(batch, *([0] if len(accepted) > 1 else []))
        value = output["loss"] if isinstance(output, dict) else output
        if not isinstance(value, Tensor):
            raise UsageError(
                f"training_step of {name} gave {type(value).__name__}; expected the loss, or a dict with it.\n"
                f"write:    def loss(self, batch) in {name}, the mean loss over the batch as a scalar"
            )
        return value

    return loss


def sample_counter(module: LightningModule) -> Callable[[Any], float]:
    """Find how much a batch weighs, so that the mean over batches is the mean over all that the loss averages.

    Args:
        module: may have ``sample_count(batch)``, for a loss that is a mean over tokens, say.

    Returns:
        Maps a batch to a number; without that method to the length of its first tensor.
    """
    return module.sample_count if has_method(module, "sample_count") else sample_count  # type: ignore[return-value]


def has_method(module: LightningModule, name: str) -> bool:
    """Tell a method of one argument from a criterion that happens to have its name.

    Args:
        module: anyone's.
        name: of the method.

    Returns:
        Whether it can be called with a batch.
    """
    method = getattr(module, name, None)
    if not callable(method) or isinstance(method, nn.Module) or inspect.isclass(method):
        return False
    try:
        inspect.signature(method).bind(None)
    except (TypeError, ValueError):
        return False
    return True
