"""Evaluate a module in the middle of its training, and leave no trace."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

SILENT = ("log", "log_dict", "print")  # what a step may do that others would see
CONTAINERS = (dict, list, set, deque)
Undo = Callable[[], None]


@contextmanager
def undisturbed(module: LightningModule, mode: Literal["eval", "train"], seed: int) -> Iterator[None]:
    """Put a module into a mode, with logging stubbed and the random numbers at a seed; afterwards all is as before.

    Restored are modes, buffers, ``.grad`` and ``requires_grad`` of parameters, other attributes of all submodules (counters,
    lists that a step appends to, torchmetrics' states), the trainer's loggers, and the random numbers of Python, NumPy and
    PyTorch on the CPU and on the accelerator. Parameters themselves are not looked after: nothing here changes them.

    Args:
        module: perhaps in training.
        mode: of all its submodules inside.
        seed: of the random numbers inside.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        stack.enter_context(_same_random_numbers(module.device, seed))
        for submodule in module.modules():
            for undo in _undoing(submodule):
                stack.callback(undo)
        module.train(mode == "train")
        for name in SILENT:
            object.__setattr__(module, name, _nothing)
        stack.enter_context(_no_loggers(module))
        yield


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    pass


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


def _undoing(module: nn.Module) -> Iterator[Undo]:
    """What restores one module: first in the list, last to be done."""
    attributes = module.__dict__
    kept = dict(attributes)

    def bind() -> None:
        attributes.clear()
        attributes.update(kept)

    yield bind
    for value in kept.values():
        if isinstance(value, CONTAINERS):
            inner = value.values() if isinstance(value, dict) else value
            yield from (_refill(part) for part in inner if isinstance(part, CONTAINERS))  # for example {"train": [...]}
            yield _refill(value)
        elif isinstance(value, Tensor):
            yield _rewrite(value)
    for tensor in module._buffers.values():
        if tensor is not None:
            yield _rewrite(tensor)
    for parameter in module._parameters.values():
        if parameter is not None:
            yield _regrade(parameter)


def _refill(container: Any) -> Undo:
    if not container:  # a module has a dozen of these
        return container.clear  # type: ignore[no-any-return]
    content = container.copy()
    refill = container.update if isinstance(container, dict | set) else container.extend

    def undo() -> None:
        container.clear()
        refill(content)

    return undo


def _rewrite(tensor: Tensor) -> Undo:
    if tensor.is_inference():
        return lambda: None
    copy, version = tensor.detach().clone(), tensor._version

    def undo() -> None:
        if tensor._version != version:
            with torch.no_grad():
                tensor.copy_(copy)

    return undo


def _regrade(parameter: nn.Parameter) -> Undo:
    gradient, required = parameter.grad, parameter.requires_grad

    def undo() -> None:
        parameter.grad = gradient
        parameter.requires_grad_(required)

    return undo
