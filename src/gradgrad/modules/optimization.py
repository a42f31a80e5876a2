"""The outer optimizer and its scheduler, as a config names them."""

from collections.abc import Iterable

from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn


def optimization(
    make_optimizer: OptimizerCallable, make_scheduler: LRSchedulerCallable | None, params: Iterable[nn.Parameter]
) -> OptimizerLRScheduler:
    """Make them.

    Args:
        make_optimizer: called with the parameters.
        make_scheduler: called with the optimizer, or None.
        params: to be optimized.

    Returns:
        As Lightning takes them.
    """
    optimizer = make_optimizer(params)
    if make_scheduler is None:
        return optimizer
    scheduler = make_scheduler(optimizer)
    if isinstance(scheduler, ReduceLROnPlateau):
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": scheduler.monitor}}
    return {"optimizer": optimizer, "lr_scheduler": scheduler}
