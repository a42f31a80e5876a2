"""What a model is found to take."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from gradgrad.batches import Statistics, TaskShape
from gradgrad.errors import UsageError
from gradgrad.tracking.interface import interface


class Plain(LightningModule):
    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, image, scale=2.0):
        return image * scale


class Adapting(nn.Module):
    """As much of a module that adapts as is asked for."""

    def __init__(self, shape, inner_lr):
        super().__init__()
        self.task_shape, self.counted, self.inner_lr = shape, 3, inner_lr

    def answer(self, tasks, inner_steps=None, inner_lr=None):
        raise NotImplementedError


def trainer(**attributes):
    empty = {"datamodule": None, "train_dataloader": None, "val_dataloaders": None, "test_dataloaders": None}
    return SimpleNamespace(**{**empty, **attributes})


def test_the_mean_of_the_training_part_tells_of_no_single_row():
    statistics = Statistics(torch.tensor([1.0, 2.5]), torch.ones(2), torch.zeros(1), torch.ones(1))
    found = interface(Plain(example_input_array=torch.ones(1, 9)), trainer(datamodule=SimpleNamespace(statistics=statistics)))
    assert found.params == {}
    assert list(found.inputs) == ["image"]
    assert found.inputs["image"].tolist() == [[1.0, 2.5]]
    assert found.inputs["image"].dtype == np.float64


def test_a_modules_own_example():
    found = interface(Plain(example_input_array=torch.ones(2, 3, dtype=torch.int32)), trainer())
    assert found.inputs["image"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert found.inputs["image"].dtype == np.int64


class Rows:
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.full((2, 2), 5.0), index


@pytest.mark.parametrize("data", [TensorDataset(torch.full((4, 2, 2), 5.0), torch.zeros(4)), Rows()])
@pytest.mark.parametrize("where", ["train_dataloader", "test_dataloaders"])
def test_zeros_in_the_shape_of_the_data(data, where):
    loaders = DataLoader(data, batch_size=2)
    found = interface(Plain(), trainer(**{where: loaders if where == "train_dataloader" else [loaders]}))
    assert found.inputs["image"].tolist() == [[[0.0, 0.0], [0.0, 0.0]]]


@pytest.mark.parametrize(
    ("shape", "support_y", "rows"),
    [(TaskShape((2,), 1, False), [[0.5], [0.5]], 2), (TaskShape((1, 2, 2), 3, True), [0.0, 1.0, 2.0], 3)],
)
def test_a_module_that_adapts_takes_a_task(shape, support_y, rows):
    found = interface(Adapting(shape, 0.25), trainer())
    assert {name: array.shape for name, array in found.inputs.items()} == {
        "support_x": (rows, *shape.inputs),
        "support_y": np.shape(support_y),
        "query_x": (2, *shape.inputs),
    }
    assert found.inputs["support_y"].tolist() == support_y
    assert np.ptp(found.inputs["support_x"]) == 1
    assert found.params == {"inner_steps": 3, "inner_lr": 0.25}


def test_learned_rates_cannot_be_chosen():
    assert interface(Adapting(TaskShape((2,), 1, False), None), trainer()).params == {"inner_steps": 3}


class Two(Plain):
    def forward(self, x, y):
        return x + y


class Anything(Plain):
    def forward(self, *parts):
        return parts[0]


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        (Plain(), "nothing tells what it takes; expected an attribute example_input_array, a tensor with one row or more"),
        (Plain(example_input_array=torch.tensor(1.0)), "its example_input_array is a lone number; expected one row or more"),
        (Two(example_input_array=torch.ones(1, 1)), "its forward takes x, y; expected one tensor"),
        (Anything(example_input_array=torch.ones(1, 1)), "its forward takes no argument by name; expected one tensor"),
    ],
)
def test_what_cannot_be_found_out(module, sentence):
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        interface(module, trainer())
