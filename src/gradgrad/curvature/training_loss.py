"""The function whose curvature is meant: a module's training loss, as a function of a batch."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import LightningModule
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from gradgrad.derivatives.curvature import sample_count
from gradgrad.errors import UsageError

Loss = Callable[[Any], Tensor]


def training_loss(module: LightningModule) -> Loss:
    """Find the mean loss over a batch's samples.

    It is ``loss(batch)`` where the module has a method whose one argument is called ``batch``, else ``training_step(batch, 0)``,
    for modules that optimize automatically. It gets a copy of the batch, which it may change. Call it inside
    :func:`gradgrad.curvature.undisturbed`, where logging is stubbed.

    Args:
        module: anyone's.

    Returns:
        Maps a batch to a scalar with a graph.

    Raises:
        UsageError: neither can be had.
    """
    name = type(module).__name__
    if has_method(module, "loss"):
        return lambda batch: module.loss(copied(batch))  # type: ignore[operator]
    if not module.automatic_optimization:
        raise UsageError(
            f"{name} optimizes manually, so its training_step is no loss.\n"
            f"write:    def loss(self, batch) in {name}, the mean loss over the batch as a scalar"
        )
    numbered = _takes(module.training_step, None, 0)

    def loss(batch: Any) -> Tensor:
        output = module.training_step(copied(batch), *([0] if numbered else []))
        value = output.get("loss") if isinstance(output, Mapping) else output
        if not isinstance(value, Tensor):
            raise UsageError(
                f"training_step of {name} gave {type(value).__name__}; expected the loss, or a dict with it.\n"
                f"write:    def loss(self, batch) in {name}, the mean loss over the batch as a scalar"
            )
        return value.squeeze() if value.numel() == 1 else value

    return loss


def copied(batch: Any) -> Any:
    """Copy a batch.

    Args:
        batch: tensors in mappings, sequences and dataclasses.

    Returns:
        The same structure around copies of the tensors.
    """
    return apply_to_collection(batch, Tensor, Tensor.clone)


def sample_counter(module: LightningModule) -> Callable[[Any], float]:
    """Find how much a batch weighs, so that the mean over batches is the mean over all that the loss averages.

    Args:
        module: may have ``sample_count(batch)``, for a loss that is a mean over tokens, say.

    Returns:
        Maps a batch to a number; without that method to the length of its first tensor.
    """
    if has_method(module, "sample_count"):
        return module.sample_count  # type: ignore[return-value]

    def count(batch: Any) -> float:
        try:
            return sample_count(batch)
        except UsageError as error:
            name = type(module).__name__
            raise UsageError(
                f"the number of samples in a batch of type {type(batch).__name__} is not known.\n"
                f"write:    def sample_count(self, batch) in {name}, the number of samples that its loss is a mean over"
            ) from error

    return count


def has_method(module: LightningModule, name: str) -> bool:
    """Tell a method of the batch from a criterion, or another function, that happens to have its name.

    Args:
        module: anyone's.
        name: of the method.

    Returns:
        Whether it is one, and can be called with one argument, which it calls ``batch``.
    """
    method = getattr(module, name, None)
    if not callable(method) or isinstance(method, nn.Module) or inspect.isclass(method):
        return False
    try:
        inspect.signature(method).bind(batch=None)
    except (TypeError, ValueError):
        return False
    return "batch" in inspect.signature(method).parameters


def _takes(method: Callable[..., Any], *arguments: Any) -> bool:
    try:
        inspect.signature(method).bind(*arguments)
    except TypeError:
        return False
    return True
