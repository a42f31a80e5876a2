"""What a model takes, with an example that tells nothing of anyone's data."""

import inspect
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor

from gradgrad.batches import Statistics, TaskShape
from gradgrad.errors import UsageError, some


class Interface(NamedTuple):
    """What a model takes.

    Attributes:
        inputs: an example by name; any number of rows will do.
        params: defaults by name.
    """

    inputs: dict[str, NDArray[Any]]
    params: dict[str, int | float]


def interface(module: LightningModule, trainer: Trainer) -> Interface:
    """Find out what a module takes.

    Args:
        module: trained.
        trainer: with its data.

    Returns:
        Of a module that adapts a small task of evenly spaced numbers; of any other the mean of the training part, where the
        datamodule has ``statistics``, else the module's ``example_input_array``, else zeros in the shape of its data.
    """
    from gradgrad.tracking.served import Adapts

    if isinstance(module, Adapts):
        rate: dict[str, int | float] = {} if module.inner_lr is None else {"inner_lr": module.inner_lr}
        return Interface(_task(module.task_shape), {"inner_steps": module.counted, **rate})
    statistics = getattr(getattr(trainer, "datamodule", None), "statistics", None)
    given = getattr(module, "example_input_array", None)
    if isinstance(statistics, Statistics):
        example = statistics.x_mean[None]
    elif isinstance(given, Tensor):
        example = given.detach().cpu()
    else:
        example = torch.zeros_like(_first_input(trainer))
    return Interface({_argument(module): _wide(example)}, {})


def _task(shape: TaskShape) -> dict[str, NDArray[Any]]:
    supports, queries = max(2, shape.outputs if shape.classification else 0), 2
    x = np.linspace(0, 1, supports * int(np.prod(shape.inputs))).reshape(supports, *shape.inputs)
    # Class numbers as floats, because MLflow would make 1 of 1.7 without a word.
    y = np.arange(supports) % shape.outputs * 1.0 if shape.classification else np.full((supports, shape.outputs), 0.5)
    return {"support_x": x, "support_y": y, "query_x": x[:queries]}


def _argument(module: LightningModule) -> str:
    arguments = inspect.signature(module.forward).parameters.values()
    needed = [a.name for a in arguments if a.default is a.empty and a.kind not in (a.VAR_POSITIONAL, a.VAR_KEYWORD)]
    if len(needed) != 1:
        raise UsageError(f"its forward takes {some(needed) or 'no argument by name'}; expected one tensor")
    return needed[0]


def _first_input(trainer: Trainer) -> Tensor:
    for loaders in (trainer.train_dataloader, trainer.val_dataloaders, trainer.test_dataloaders):
        loader = loaders[0] if isinstance(loaders, list) and loaders else loaders
        data = getattr(loader, "dataset", None)
        if data is None or not hasattr(data, "__getitem__"):
            continue
        rows = data.__getitems__([0]) if hasattr(data, "__getitems__") else [data[0]]
        batch = loader.collate_fn(rows)  # type: ignore[union-attr]  # one row, without the loader's processes
        first = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if isinstance(first, Tensor):
            return first[:1]
    raise UsageError("nothing tells what it takes; expected an attribute example_input_array, a tensor with one row or more")


def _wide(tensor: Tensor) -> NDArray[Any]:
    if tensor.dim() == 0:
        raise UsageError("its example_input_array is a lone number; expected one row or more")
    return tensor.to(torch.float64 if tensor.is_floating_point() else torch.int64).numpy()
