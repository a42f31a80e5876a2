"""The penalty on input gradients against the dense Jacobian and closed forms."""

import pytest
import torch
from torch import nn

import cases
from gradgrad.batches import Batch
from gradgrad.errors import UsageError
from gradgrad.penalties import GradientNormPenalty, InputGradientPenalty, penalize

EPS = torch.finfo(torch.float64).eps
X, Y = cases.batch()


def wide(outputs=3):
    torch.manual_seed(2)
    return cases.Regression(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs)).double())


def jacobians(module):
    """The Jacobian of each sample's outputs, with a graph: the textbook, one sample at a time."""
    rows = []
    for x in X:
        x = x.clone().requires_grad_()
        output = module(x.unsqueeze(0)).squeeze(0)
        rows.append(torch.stack([torch.autograd.grad(o, x, create_graph=True)[0] for o in output]))
    return torch.stack(rows)


def check(module, penalty, value):
    expected = torch.autograd.grad(value, list(module.parameters()), allow_unused=True)
    penalized = penalize(module, (X, Y), [penalty])
    plain = penalize(module, (X, Y), [])
    actual = torch.autograd.grad(penalized.total, list(module.parameters()))
    loss = torch.autograd.grad(plain.total, list(module.parameters()))
    torch.testing.assert_close(penalized.penalty, value.detach(), rtol=1e-12, atol=0)
    for a, b, c in zip(actual, loss, expected, strict=True):
        torch.testing.assert_close(a - b, torch.zeros_like(a) if c is None else c, rtol=1e-9, atol=1e-11)
    return penalized


def test_the_output_jacobian_is_the_dense_one():
    module = wide()
    value = 0.3 * jacobians(module).square().sum((1, 2)).mean()
    penalized = check(module, InputGradientPenalty(0.3), value)
    torch.testing.assert_close(penalized.norms["input_gradient_norm"], (value.detach() / 0.3).sqrt(), rtol=1e-12, atol=0)


def test_the_gradient_of_each_sample_s_loss():
    module = wide(1)
    rows = []
    for x, y in zip(X, Y, strict=True):
        x = x.clone().requires_grad_()
        loss = (module(x.unsqueeze(0)) - y).square().mean()
        rows.append(torch.autograd.grad(loss, x, create_graph=True)[0])
    check(module, InputGradientPenalty(0.3, target="loss"), 0.3 * torch.stack(rows).square().sum(1).mean())


def test_in_a_linear_model_it_is_l2():
    module = cases.Regression(nn.Linear(3, 1).double())
    check(module, InputGradientPenalty(0.3), 0.3 * module.net.weight.square().sum())


def test_random_projections_are_right_on_average():
    module = wide()
    exact = jacobians(module).square().sum((1, 2)).mean().item()
    torch.manual_seed(0)
    penalty = InputGradientPenalty(1.0, projections=2)
    draws = torch.stack([penalize(module, (X, Y), [penalty]).penalty for _ in range(600)])
    error = draws.std() / len(draws) ** 0.5
    assert error > 0
    assert abs(draws.mean() - exact) < 4 * error  # fails once in 16,000 seeds; this one is fixed


def test_one_output_needs_no_projection():
    module = wide(1)
    exact = penalize(module, (X, Y), [InputGradientPenalty(1.0)]).penalty
    assert torch.equal(penalize(module, (X, Y), [InputGradientPenalty(1.0, projections=1)]).penalty, exact)


@pytest.mark.parametrize("batch", [(X, Y), [X, Y], Batch(X, Y), {"x": X, "y": Y}], ids=["tuple", "list", "Batch", "dict"])
@pytest.mark.parametrize("target", ["output", "loss"])
def test_batches_of_any_form(batch, target):
    module = wide(1)
    expected = penalize(module, (X, Y), [InputGradientPenalty(1.0, target)]).penalty
    if isinstance(batch, dict):
        module.loss = lambda b: (module(b["x"]) - b["y"]).square().mean()
    assert torch.equal(penalize(module, batch, [InputGradientPenalty(1.0, target)]).penalty, expected)


def test_beside_a_gradient_norm_penalty_both_are_about_the_plain_loss():
    module = wide(1)
    terms = [InputGradientPenalty(0.3), GradientNormPenalty(0.5, method="finite_difference")]
    separate = [penalize(module, (X, Y), [term]).penalty for term in terms]
    both = penalize(module, (X, Y), terms)
    torch.testing.assert_close(both.penalty, sum(separate), rtol=1e-12, atol=0)
    assert set(both.norms) == {"input_gradient_norm", "gradient_norm"}
    assert not X.requires_grad


def test_batch_normalization_in_training_mode_gets_a_warning_once():
    module = cases.Regression(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double())
    penalty = InputGradientPenalty(1.0)
    with pytest.warns(UserWarning, match=r"^InputGradientPenalty got BatchNorm in training mode, which mixes samples"):
        penalize(module, (X, Y), [penalty])
    penalize(module, (X, Y), [penalty])
    module.eval()
    penalize(module, (X, Y), [InputGradientPenalty(1.0)])


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: InputGradientPenalty(1.0, target="input"), r"^InputGradientPenalty got target 'input'; write output or loss\.$"),
        (lambda: InputGradientPenalty(1.0, projections=0), r"^InputGradientPenalty got projections 0; write exact, or 1 or more"),
        (lambda: InputGradientPenalty(1.0, "loss", 2), r"^InputGradientPenalty got projections with target loss; write exact"),
        (
            lambda: penalize(cases.Regression(Total()), (torch.ones(8, 3, dtype=torch.int64), Y), [InputGradientPenalty(1.0)]),
            r"^InputGradientPenalty got inputs of dtype int64; expected real floating-point numbers\.",
        ),
        (
            lambda: penalize(cases.Regression(Total()), (X, Y), [InputGradientPenalty(1.0)]),
            r"^InputGradientPenalty got outputs of shape \(\) for 8 inputs; expected one row for each input\.$",
        ),
    ],
)
def test_bad_input_gets_a_sentence(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call()


class Total(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, x):
        return (x.double() @ self.weight).sum()
