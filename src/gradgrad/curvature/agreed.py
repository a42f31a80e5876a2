"""What every process must be able to do before all go on together."""

from collections.abc import Callable
from typing import TypeVar

import torch
from lightning.pytorch import Trainer

from gradgrad.curvature.operator import reducer

Found = TypeVar("Found")


def agreed(trainer: Trainer, make: Callable[[], Found]) -> Found:
    """Do something that may fail in one process only, which would leave the others waiting for it.

    Args:
        trainer: with its strategy.
        make: does it, without talking to other processes.

    Returns:
        What it gave.

    Raises:
        RuntimeError: it failed in another process.
        Exception: it failed in this one.
    """
    reduce = reducer(trainer)
    if reduce is None:
        return make()
    failure: Exception | None = None
    try:
        found = make()
    except Exception as error:
        failure = error
    failures = reduce(torch.tensor(float(failure is not None), device=trainer.strategy.root_device))
    if failure is not None:
        raise failure
    if failures:
        raise RuntimeError("the probe could not be had in another process, whose message says why")
    return found
