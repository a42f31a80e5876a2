"""What an object remembers, so that it can be told to forget what happened since."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

Undo = Callable[[], None]
CONTAINERS = (dict, list, set, deque)
OPAQUE = (
    str,
    bytes,
    int,
    float,
    bool,
    type,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    ModuleType,
    Trainer,
    torch.device,
    torch.dtype,
)
DEPTH = 4  # of objects in objects; a guess at what a step changes
LONG = 10_000  # entries of a container beyond which it is data, whose entries are not looked into
LARGE = 2**24  # numbers in a tensor, not a parameter, beyond which it is data and not copied: 64 MB in float32


def undoing(value: Any, data: bool = True) -> Iterator[Undo]:
    """Remember an object: its attributes, containers, tensors, arrays and generators, and those of the objects in it.

    Args:
        value: anything.
        data: whether tensors, arrays and long containers are copied too; without, a large data set costs nothing.

    Yields:
        What restores a part; call these in reverse order.
    """
    yield from _walk(value, data, set(), DEPTH)


def _walk(value: Any, data: bool, seen: set[int], depth: int) -> Iterator[Undo]:
    if value is None or isinstance(value, OPAQUE) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor | np.ndarray):
        size = value.numel() if isinstance(value, Tensor) else value.size
        if data and (size <= LARGE or isinstance(value, nn.Parameter)):
            yield _rewritten(value)
    elif (restore := _generator(value)) is not None:
        yield restore
    elif isinstance(value, CONTAINERS):
        if data or len(value) <= LONG:
            yield _refilled(value)
        if depth and len(value) <= LONG:
            for part in list(value.values() if isinstance(value, dict) else value):
                yield from _walk(part, data, seen, depth - 1)
    elif isinstance(value, tuple):
        for part in value if depth and len(value) <= LONG else ():
            yield from _walk(part, data, seen, depth - 1)
    elif isinstance(attributes := getattr(value, "__dict__", None), dict):
        yield _refilled(attributes)
        # A module's submodules are as deep as it is.
        inner = DEPTH if isinstance(value, nn.Module) else depth - 1
        for part in list(attributes.values()) if inner >= 0 else ():
            yield from _walk(part, data, seen, inner)


def _refilled(container: Any) -> Undo:
    if not container:  # a module has a dozen of these
        return container.clear  # type: ignore[no-any-return]
    content = container.copy()
    refill = container.update if isinstance(container, dict | set) else container.extend

    def undo() -> None:
        container.clear()
        refill(content)

    return undo


def _generator(value: Any) -> Undo | None:
    """Restore a generator of random numbers; None for anything else."""
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: _ignore(value.set_state(state))
    if isinstance(value, np.random.Generator):
        bits, numbers = value.bit_generator, value.bit_generator.state
        return lambda: setattr(bits, "state", numbers)
    if isinstance(value, np.random.RandomState):
        legacy = value.get_state()
        return lambda: value.set_state(legacy)
    if isinstance(value, random.Random):
        python = value.getstate()
        return lambda: value.setstate(python)
    return None


def _ignore(_result: Any) -> None:
    pass


def _rewritten(value: Tensor | np.ndarray) -> Undo:
    if isinstance(value, np.ndarray):
        array = value.copy()
        return lambda: np.copyto(value, array) if value.flags.writeable else None
    if value.is_inference() or value.layout != torch.strided:
        return lambda: None
    copy = value.detach().clone()
    gradient, required = (value.grad, value.requires_grad) if value.is_leaf else (None, False)

    def undo() -> None:
        # By content, for `.data` changes no version; and only then, because a graph may have saved the tensor.
        if not torch.equal(value.detach(), copy):
            with torch.no_grad():
                value.detach().copy_(copy)
        if value.is_leaf:
            value.grad = gradient
            if value.requires_grad != required:
                value.requires_grad_(required)

    return undo
