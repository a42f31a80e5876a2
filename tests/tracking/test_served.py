"""A module that answers MLflow: adaptation by hand, and what it refuses."""

import re

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from gradgrad.batches import TaskShape
from gradgrad.errors import UsageError
from gradgrad.modules import MAML
from gradgrad.networks import MLP
from gradgrad.tracking.request_checks import Refusal
from gradgrad.tracking.served import Served, build


def learner(outputs=1, classification=False, **settings):
    module = MAML(lambda features, outputs: MLP(features, outputs, [5]), inner_steps=2, **settings)
    module._build(TaskShape((2,), outputs, classification))
    return module.double()


def task(classification=False, rows=6):
    draw = np.random.default_rng(0)
    y = np.arange(rows) % 3 * 1.0 if classification else draw.normal(size=(rows, 1))
    return {"support_x": draw.normal(size=(rows, 2)), "support_y": y, "query_x": draw.normal(size=(4, 2))}


def adapted_by_hand(network, given, steps, rate, loss):
    x, y, query = (torch.from_numpy(given[name]) for name in ("support_x", "support_y", "query_x"))
    params = [p.detach().clone().requires_grad_() for p in network.parameters()]
    for _ in range(steps):
        first, second = params[:2], params[2:]
        out = torch.tanh(x @ first[0].T + first[1]) @ second[0].T + second[1]
        slopes = torch.autograd.grad(loss(out, y if out.shape == y.shape else y.long()), params)
        params = [(p - rate * g).detach().requires_grad_() for p, g in zip(params, slopes, strict=True)]
    return (torch.tanh(query @ params[0].T + params[1]) @ params[2].T + params[3]).detach()


@pytest.mark.parametrize("params", [{}, {"inner_steps": 0}, {"inner_steps": 5}, {"inner_steps": 3, "inner_lr": 0.3}])
def test_it_adapts_as_by_hand_and_forgets(params):
    module, given = learner(), task()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    expected = adapted_by_hand(module.network, given, params.get("inner_steps", 2), params.get("inner_lr", 0.01), mse_loss)
    for _ in range(2):
        np.testing.assert_allclose(Served(module).predict(given, params), expected, rtol=1e-12)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_classes_come_as_probabilities():
    module, given = learner(3, True), task(True)
    expected = adapted_by_hand(module.network, given, 4, 0.5, cross_entropy).softmax(-1)
    found = Served(module).predict(given, {"inner_steps": 4, "inner_lr": 0.5})
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(found.sum(1), 1)


@pytest.mark.parametrize(
    ("changed", "params", "sentence"),
    [
        ({"support_y": np.zeros((5, 1))}, {}, "support_x has 6 rows and support_y 5; expected as many."),
        ({}, {"inner_steps": -1}, "inner_steps is -1; expected 0 to 1000."),
        ({}, {"inner_steps": 1001}, "inner_steps is 1001; expected 0 to 1000."),
        ({}, {"inner_lr": 0.0}, "inner_lr is 0.0; expected a positive number."),
        ({}, {"inner_lr": float("nan")}, "inner_lr is nan; expected a positive number."),
        (
            {},
            {"inner_steps": 999, "inner_lr": 1e30},
            "the answer is not finite: the numbers of the request are too large for this model; "
            "a smaller inner_lr or fewer inner_steps may help.",
        ),
    ],
)
def test_a_task_that_is_refused(changed, params, sentence):
    with pytest.raises(Refusal, match=f"^{re.escape(sentence)}$"):
        Served(learner()).predict({**task(), **changed}, params)


@pytest.mark.parametrize(("wrong", "shown"), [(3.0, "3"), (-1.0, "-1"), (0.5, "0.5")])
def test_a_class_that_is_not_there(wrong, shown):
    given = task(True)
    given["support_y"][2] = wrong
    with pytest.raises(Refusal, match=f"^support_y has the class {shown}; expected whole numbers from 0 to 2\\.$"):
        Served(learner(3, True)).predict(given)


class Stranger(LightningModule):
    def __init__(self, answers):
        super().__init__()
        self.net, self.answers = nn.Linear(2, 1), answers

    def forward(self, x):
        return self.answers(self.net(x))


def test_any_module_answers_in_its_own_precision_without_dropout():
    module = Stranger(nn.Dropout(0.5)).train()
    x = np.random.default_rng(0).normal(size=(50, 2))
    found = Served(module).predict({"x": x})
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, module.net(torch.from_numpy(x).float()).detach().numpy())


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (lambda y: [y], "Stranger answers with list; expected a tensor."),
        (lambda y: y / 0, "the answer is not finite: the numbers of the request are too large for this model."),
    ],
)
def test_an_answer_that_cannot_be_sent(answers, sentence):
    with pytest.raises(Refusal, match=f"^{re.escape(sentence)}$"):
        Served(Stranger(answers)).predict({"x": np.ones((1, 2))})


def test_a_model_whose_class_is_not_there_is_a_sentence():
    sentence = (
        "the model needs not_there.Model, and there is no module 'not_there'.\n"
        "expected: not_there installed, or its folder on PYTHONPATH; a logged model holds weights and settings, no code"
    )
    with pytest.raises(UsageError, match=f"^{re.escape(sentence)}$"):
        build({"class_path": "not_there.Model"}, {}, {})
