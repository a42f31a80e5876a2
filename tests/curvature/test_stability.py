"""Thresholds against what optimizers really do on a quadratic; preconditioners against their own steps."""

import pytest
import torch
from torch.optim import SGD, Adadelta, Adagrad, Adam, AdamW, RMSprop

from gradgrad.curvature.stability import learning_rate, preconditioner, stability_threshold
from gradgrad.errors import UsageError


def made(kind, **settings):
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    return p, kind([p], **settings)


SGDS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.1, "momentum": 0.5, "dampening": 0.3},
    {"lr": 0.1, "momentum": 0.8, "weight_decay": 1.5},
]


@pytest.mark.parametrize("settings", SGDS)
def test_steps_grow_just_above_and_shrink_just_below(settings):
    for factor, grows in ((1.01, True), (0.99, False)):
        p, optimizer = made(SGD, **settings)
        curvature = stability_threshold([optimizer], preconditioned=False) * factor
        for _ in range(2000):
            p.grad = curvature * p.detach()
            optimizer.step()
        assert (p.abs().item() > 1) == grows, (factor, p)


@pytest.mark.parametrize("settings", [{"lr": 1e-3}, {"lr": 1e-3, "betas": (0.5, 0.999)}, {"lr": 1e-3, "weight_decay": 30.0}])
def test_adam_with_its_moments_held(settings):
    """Adam with a constant second moment is a moving average of gradients, divided by P: simulate that."""
    kind = AdamW if "weight_decay" in settings else Adam
    _, optimizer = made(kind, **settings)
    limit, beta, rate = stability_threshold([optimizer], True), optimizer.param_groups[0]["betas"][0], 1e-3
    if "weight_decay" not in settings:
        assert limit == pytest.approx(2 * (1 + beta) / (1 - beta) / rate)
    for factor, grows in ((1.001, True), (0.999, False)):
        x, average = 1.0, 0.0
        for _ in range(20000):
            average = beta * average + (1 - beta) * factor * limit * x
            x = x * (1 - rate * settings.get("weight_decay", 0.0)) - rate * average
        assert (abs(x) > 1) == grows


def test_where_there_is_no_number():
    assert stability_threshold([made(Adam, lr=0.1)[1]], preconditioned=False) is None
    assert stability_threshold([made(Adam, lr=0.1, weight_decay=0.1)[1]], preconditioned=True) is None
    assert stability_threshold([made(SGD, lr=0.1, maximize=True)[1]], preconditioned=False) is None
    assert stability_threshold([made(SGD, lr=0.0)[1]], preconditioned=False) is None
    assert stability_threshold([made(SGD, lr=0.1)[1]] * 2, preconditioned=False) is None
    two = SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "lr": rate} for rate in (0.1, 0.2)])
    assert learning_rate([two]) is None
    assert stability_threshold([two], preconditioned=False) is None


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Adam, {"betas": (0.0, 0.9)}),
        (Adam, {"betas": (0.0, 0.9), "amsgrad": True}),
        (AdamW, {"betas": (0.0, 0.9), "weight_decay": 0.0}),
        (RMSprop, {}),
        (RMSprop, {"centered": True}),
        (Adagrad, {}),
    ],
)
def test_a_preconditioner_is_what_a_step_divides_by(kind, settings):
    """Without momentum the last step was lr g / P."""
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(5, dtype=torch.float64))
    optimizer = kind([p], lr=0.01, **settings)
    assert preconditioner([optimizer], [p]) is None
    for _ in range(3):
        p.grad = torch.randn(5, dtype=torch.float64)
        before = p.detach().clone()
        optimizer.step()
    torch.testing.assert_close(0.01 * p.grad / preconditioner([optimizer], [p]), before - p.detach(), rtol=1e-9, atol=0)


def test_refusals():
    p, optimizer = made(Adam, lr=0.1)
    with pytest.raises(
        UsageError, match=r"preconditioned got 1 of 2 parameters that Adam does not change.\nwrite:    an optimizer of"
    ):
        preconditioner([optimizer], [p, torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(
        UsageError, match=r"needs the second moments of one adaptive optimizer; got Adadelta.\nexpected: Adam, AdamW"
    ):
        preconditioner([made(Adadelta)[1]], [p])
    assert not optimizer.state  # looking has made none
