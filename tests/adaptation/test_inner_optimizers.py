"""Steps of the inner loop against torch.optim, formulas and their derivatives where a gradient is zero."""

import pytest
import torch
from family import random

from gradgrad.adaptation import SGD, Adam, Momentum
from gradgrad.adaptation.inner_optimizer import clipped
from gradgrad.adaptation.learner import OverTasks
from gradgrad.errors import UsageError

SHAPES = {"layer.weight": (2, 3), "layer.bias": (3,)}
# Five steps of less than ten roundings each, of numbers below ten: 5 * 10 * 1e-16 * 10 = 5e-14 at worst.
ROUNDING = {"rtol": 0, "atol": 1e-13}


def tensors(seed):
    return {name: random(*shape, seed=10 * seed + place) for place, (name, shape) in enumerate(SHAPES.items())}


def run(optimizer, params, gradients):
    """List the parameters after each step."""
    state, visited = optimizer.init(params), []
    for step, given in enumerate(gradients):
        params, state = optimizer.update(params, given, state, step, optimizer.rates())
        visited.append(params)
    return visited


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (Momentum(0.1, 0.8), lambda p: torch.optim.SGD(p, 0.1, momentum=0.8)),
        (Momentum(0.1, 0.8, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, nesterov=True)),
        # Where eps is inside the root matters only as far as eps does: none is the same on both sides.
        (Adam(0.1, (0.8, 0.95), eps=1e-300), lambda p: torch.optim.Adam(p, 0.1, betas=(0.8, 0.95), eps=0.0)),
        (Adam(0.1, (0.0, 0.999), eps=1e-300), lambda p: torch.optim.Adam(p, 0.1, betas=(0.0, 0.999), eps=0.0)),
    ],
    ids=["SGD", "momentum", "Nesterov", "Adam", "Adam without first moment"],
)
def test_steps_are_those_of_torch(ours, theirs):
    params, gradients = tensors(0), [tensors(seed) for seed in range(1, 6)]
    other = {name: p.clone().requires_grad_() for name, p in params.items()}
    optimizer = theirs(list(other.values()))
    for given, got in zip(gradients, run(ours, params, gradients), strict=True):
        for name, p in other.items():
            p.grad = given[name]
        optimizer.step()
        for name, p in other.items():
            torch.testing.assert_close(got[name], p.detach(), **ROUNDING)


def test_defaults_of_adam_are_torchs_but_for_eps():
    defaults = torch.optim.Adam([torch.zeros(1)]).defaults
    assert (Adam().lr, Adam().betas) == (defaults["lr"], defaults["betas"])


def test_adam_has_eps_inside_the_root():
    g, h = tensors(1), tensors(2)
    first, second = run(Adam(0.1, (0.8, 0.9), eps=0.5), tensors(0), [g, h])
    for name, start in tensors(0).items():
        one = start - 0.1 * g[name] / (g[name] ** 2 + 0.5).sqrt()
        mean = (0.8 * 0.2 * g[name] + 0.2 * h[name]) / 0.36
        square = (0.9 * 0.1 * g[name] ** 2 + 0.1 * h[name] ** 2) / 0.19
        torch.testing.assert_close(first[name], one, **ROUNDING)
        torch.testing.assert_close(second[name], one - 0.1 * mean / (square + 0.5).sqrt(), **ROUNDING)


def test_nothing_is_changed_in_place():
    params, gradients, optimizer = tensors(0), tensors(1), Adam(clip_norm=0.1)
    state = optimizer.init(params)
    optimizer.update(params, gradients, state, 0, {})
    for name in params:
        assert torch.equal(params[name], tensors(0)[name])
        assert torch.equal(gradients[name], tensors(1)[name])
        assert not any(group[name].any() for group in state)


@pytest.mark.parametrize("per_step", [False, True], ids=["for all steps", "per step"])
@pytest.mark.parametrize("learn", ["tensor", "element"])
def test_learned_rates_begin_at_lr_and_act_on_what_they_are_named_for(learn, per_step):
    optimizer = SGD(0.1, learn, per_step)
    optimizer.prepare(tensors(0), steps=2)
    rates = optimizer.rates()
    for name, shape in SHAPES.items():
        assert rates[name].shape == ((2,) if per_step else ()) + (shape if learn == "element" else ())
        assert rates[name].requires_grad
        assert rates[name].unique().tolist() == [0.1]
    with torch.no_grad():
        for seed, rate in enumerate(rates.values()):
            rate.copy_(random(*rate.shape, seed=seed))
    gradients = [tensors(seed) for seed in range(1, 5)]
    expected = tensors(0)
    for step, (given, got) in enumerate(zip(gradients, run(optimizer, tensors(0), gradients), strict=True)):
        for name in SHAPES:
            rate = rates[name][(0, 1, 1, 1)[step]] if per_step else rates[name]  # beyond two steps the second rate goes on
            expected[name] = expected[name] - rate * given[name]
            torch.testing.assert_close(got[name], expected[name], **ROUNDING)


def test_rates_are_parameters_by_name():
    optimizer = SGD(0.1, "tensor")
    optimizer.prepare(tensors(0), steps=1)
    assert [id(p) for p in optimizer.parameters()] == [id(optimizer.rates()[name]) for name in SHAPES]
    assert optimizer.rates().keys() == SHAPES.keys()
    fixed = SGD(0.1)
    fixed.prepare(tensors(0), steps=1)
    assert fixed.rates() == {}


def test_other_rates_can_take_the_place_of_the_learned_ones():
    optimizer = SGD(0.1, "tensor")
    optimizer.prepare(tensors(0), steps=1)
    moved, _ = optimizer.update(tensors(0), tensors(1), (), 0, {name: torch.tensor(2.0) for name in SHAPES})
    for name in SHAPES:
        torch.testing.assert_close(moved[name], tensors(0)[name] - 2 * tensors(1)[name], **ROUNDING)


def test_clipping_is_by_the_norm_of_all_together():
    g = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    assert {name: c.tolist() for name, c in clipped(g, 2.5).items()} == {"a": [1.5, 0.0], "b": [[2.0]]}
    for norm in (5.0, 100.0):
        assert all(torch.equal(c, g[name]) for name, c in clipped(g, norm).items())


def test_each_task_is_clipped_by_its_own_norm():
    params, long, short = tensors(0), tensors(1), {name: 1e-3 * g for name, g in tensors(2).items()}
    optimizer = SGD(0.1, clip_norm=1.0)
    stacked = {name: torch.stack([long[name], short[name]]) for name in SHAPES}
    both = {name: p.expand(2, *p.shape) for name, p in params.items()}
    got, _ = OverTasks(optimizer).update(both, stacked, (), 0, {})
    for place, given in enumerate((long, short)):
        alone, _ = optimizer.update(params, given, (), 0, {})
        for name in SHAPES:
            torch.testing.assert_close(got[name][place], alone[name], **ROUNDING)
    for name in SHAPES:  # the short one is as long as it was
        torch.testing.assert_close(got[name][1], params[name] - 0.1 * short[name], **ROUNDING)


@pytest.mark.parametrize("optimizer", [Adam(0.1, eps=1e-2), SGD(0.1, clip_norm=1.0)], ids=["Adam", "clipping"])
@pytest.mark.parametrize("size", [0.0, 0.3, 3.0])
def test_steps_are_differentiable_also_where_a_gradient_is_zero(optimizer, size):
    def two_steps(first, second):
        params = {"p": torch.ones(3, dtype=torch.float64)}
        return run(optimizer, params, [{"p": first}, {"p": second}])[-1]["p"]

    given = [(size * random(3, seed=seed)).requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(two_steps, given)
    assert torch.autograd.gradgradcheck(two_steps, given)


def test_derivatives_at_a_gradient_of_zero_are_these():
    def step(optimizer, g):
        return optimizer.update({"p": torch.zeros_like(g)}, {"p": g}, optimizer.init({"p": torch.zeros_like(g)}), 0, {})[0]["p"]

    zero, eye = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    # d = g / sqrt(g^2 + eps) has the slope 1 / sqrt(eps) = 1e4; the root of 1e-8 is rounded once, the quotient once.
    torch.testing.assert_close(
        torch.autograd.functional.jacobian(lambda g: step(Adam(0.001), g), zero), -10 * eye, rtol=1e-15, atol=0
    )
    assert torch.equal(torch.autograd.functional.jacobian(lambda g: step(SGD(0.5, clip_norm=1.0), g), zero), -0.5 * eye)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SGD(0.0), r"^SGD got lr 0\.0; expected a positive number, for example 0\.01\.$"),
        (lambda: Momentum(float("inf")), r"^Momentum got lr inf; expected a positive number"),
        (lambda: Adam(float("nan")), r"^Adam got lr nan; expected a positive number"),
        (lambda: SGD(learn="layer"), r"^SGD got learn 'layer'; expected tensor, element or null\.$"),
        (lambda: SGD(per_step=True), r"^SGD got per_step without learned rates\.\nwrite:    learn: tensor, or per_step: false$"),
        (lambda: SGD(clip_norm=0.0), r"^SGD got clip_norm 0\.0; expected a positive number, or null for no clipping\.$"),
        (lambda: SGD(clip_norm=float("nan")), r"^SGD got clip_norm nan; expected a positive number"),
        (
            lambda: Momentum(momentum=1.0),
            r"^Momentum got momentum 1\.0; expected a number from 0 to below 1, for example 0\.9\.$",
        ),
        (lambda: Momentum(momentum=-0.1), r"^Momentum got momentum -0\.1; expected"),
        (
            lambda: Adam(betas=(0.9, 1.0)),
            r"^Adam got betas \[0\.9, 1\.0\] and eps 1e-08; expected betas from 0 to below 1, eps above 0\.$",
        ),
        (lambda: Adam(eps=0.0), r"^Adam got betas \[0\.9, 0\.999\] and eps 0\.0; expected betas"),
    ],
)
def test_settings_out_of_range(make, sentence):
    with pytest.raises(UsageError, match=sentence):
        make()
