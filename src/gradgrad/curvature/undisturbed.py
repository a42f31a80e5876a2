"""Evaluate a module in the middle of its training, and leave no trace."""

import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.plugins.precision import MixedPrecision

from gradgrad.curvature.memory import undoing

SILENT = ("log", "log_dict", "print")  # what a step may do that others would see


@contextmanager
def undisturbed(module: LightningModule, mode: Literal["eval", "train"], seed: int, beside: Iterable[Any] = ()) -> Iterator[None]:
    """Put a module into a mode, with logging stubbed and the random numbers at a seed; afterwards all is as before.

    Restored are modes, parameters (a step may move an average of others) with ``.grad`` and ``requires_grad``, buffers, and what
    the module and the objects in it remember: counters, lists, generators, torchmetrics' states; the trainer's loggers; and the
    random numbers of Python, NumPy and PyTorch on the CPU and on the accelerator. It costs a copy of the parameters.

    Args:
        module: perhaps in training.
        mode: of all its submodules inside.
        seed: of the random numbers inside.
        beside: data sets, whose generators and counters are restored too; their tensors and arrays are taken for constants.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        stack.enter_context(_same_random_numbers(module.device, seed))
        for undo in (*undoing(module), *(undo for source in beside for undo in undoing(source, data=False))):
            stack.callback(undo)
        stack.enter_context(_precision(module))
        module.train(mode == "train")
        for name in SILENT:
            object.__setattr__(module, name, _nothing)
        stack.enter_context(_no_loggers(module))
        yield


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    pass


def _precision(module: LightningModule) -> AbstractContextManager[None]:
    # In "64-true" and the like a step makes tensors of that type; mixed precision is off in a measurement.
    plugin = None if module._trainer is None else module._trainer.precision_plugin
    return nullcontext() if plugin is None or isinstance(plugin, MixedPrecision) else plugin.forward_context()


@contextmanager
def _no_loggers(module: LightningModule) -> Iterator[None]:
    trainer = module._trainer
    if trainer is None:
        yield
        return
    loggers = trainer.loggers
    trainer.loggers = [DummyLogger() for _ in loggers]
    try:
        yield
    finally:
        trainer.loggers = loggers


@contextmanager
def _same_random_numbers(device: torch.device, seed: int) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    # The CPU's generator is always among them. `torch.manual_seed` would touch the other accelerators too.
    devices = [] if device.type == "cpu" else [device.index or 0]
    with torch.random.fork_rng(devices, device_type="cuda" if device.type == "cpu" else device.type):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.get_device_module(device).manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
