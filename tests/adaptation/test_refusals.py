"""What adaptation refuses, and the sentences that it says."""

import re

import pytest
import torch
from torch import nn

from gradgrad.adaptation import SGD, Execution, Learner, Unrolled, adapt
from gradgrad.adaptation.evaluation import diverged
from gradgrad.batches import TaskBatch
from gradgrad.errors import UsageError

pytestmark = pytest.mark.usefixtures("float64")


def says(sentence):
    return pytest.raises(UsageError, match=f"^{re.escape(sentence)}$")


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * (1 - y**2)


class OnceNet(nn.Linear):
    def forward(self, x):
        return Once.apply(super().forward(x))


def squares(params, support):
    x, y = support
    return (x @ params["w"] - y).square().mean()


def problem():
    torch.manual_seed(0)
    return {"w": torch.randn(3, 1, requires_grad=True)}, (torch.randn(5, 3), torch.randn(5, 1))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 2.5}, "adapt got steps 2.5; expected a whole number, 0 or more."),
        ({"steps": -1}, "adapt got steps -1; expected a whole number, 0 or more."),
        (
            {"optimizer": "sgd"},
            "adapt got an optimizer of type str, which changes parameters in place.\n"
            "write:    gradgrad.adaptation.SGD(lr=...), Momentum or Adam",
        ),
        (
            {"optimizer": SGD(learn="tensor")},
            "adapt got SGD with learned rates that are not made yet.\n"
            "write:    optimizer.prepare(params, steps), once; its parameters() are the rates",
        ),
        (
            {"loss": lambda params, support: params["w"], "loop": True},
            "adapt got a loss of shape (3, 1); expected a scalar, for example the mean over samples.",
        ),
    ],
)
def test_arguments(change, sentence):
    params, support = problem()
    arguments = {"loss": squares, "params": params, "support": support, "steps": 2, "optimizer": SGD(), **change}
    with says(sentence):
        adapt(**arguments)


@pytest.mark.parametrize("how", ["loop", "checkpoint"])
def test_a_loop_under_vmap(how):
    params, (x, y) = problem()
    sentence = (
        "adapt got loop or checkpoint under torch.func (vmap or grad), which cannot see torch.autograd's graph.\n"
        "write:    loop=False, checkpoint=False there, or no torch.func around it"
    )
    with says(sentence):
        torch.func.vmap(lambda x, y: adapt(squares, params, (x, y), 2, SGD(), **{how: True}))(x[None], y[None])


def learner(network, optimizer=None):
    names = tuple(name for name, _ in network.named_parameters())
    return Learner(network, nn.MSELoss(), optimizer or SGD(), names, 1)


def tasks(outputs=1):
    return TaskBatch(torch.randn(2, 5, 3), torch.randn(2, 5, outputs), torch.randn(2, 4, 3), torch.randn(2, 4, outputs))


def test_a_function_without_second_derivative_is_not_passed_over():
    """PyTorch would drop its second-order terms without a word."""
    once = learner(OnceNet(3, 1))
    sentence = (
        "adapt got a function marked @once_differentiable, which has no second derivative.\n"
        "write:    its formula in differentiable operations"
    )
    with says(sentence):
        Unrolled()(once, once.meta(), tasks(), Execution("loop"), 0)
    assert Unrolled(first_order=True)(once, once.meta(), tasks(), Execution("loop"), 0).losses.isfinite().all()


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_outputs_of_another_shape_than_targets(mode):
    flat = learner(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)))
    sentence = (
        "the network gives outputs of shape (5,) for targets of shape (5, 1).\nexpected: the same shape, (samples, outputs)"
    )
    with says(sentence):
        Unrolled()(flat, flat.meta(), tasks(), Execution(mode), 0)


def test_same_random_numbers_need_all_tasks_at_once():
    sentence = "randomness: same needs all tasks at once, not mode chunked.\nwrite:    mode: vmap, or randomness: different"
    with says(sentence):
        Execution("chunked", randomness="same")


def test_a_hard_task_has_not_diverged():
    losses = torch.tensor([[12.0, 11.0], [12.0, 13.0], [1.0, 9.0], [1.0, 11.0], [1.0, torch.nan], [torch.nan, 1.0]])
    assert diverged(losses, above=10.0).tolist() == [1, 4]  # NaN; 13 > 12, 11 > 10, NaN, and what began as NaN
