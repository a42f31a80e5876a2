"""The inner loop: closed forms, purity, and the same numbers wherever it is called."""

import pytest
import torch
from family import random

from gradgrad.adaptation import SGD, Adam, Momentum, adapt
from gradgrad.errors import UsageError
from oracles import LinearRegression

SUPPORT, QUERY = LinearRegression(7, 3, seed=2), LinearRegression(5, 3, seed=3)
WAYS = {"func": {}, "loop": {"loop": True}, "checkpoint": {"checkpoint": True}}
# Numbers below ten through at most a thousand operations, of which each rounds by 1e-16: 1e-12 at worst.
ROUNDING = {"rtol": 0, "atol": 1e-12}


def linear(params, support):
    x, y = support
    return (x @ params["w"] - y).square().mean()


def smooth(params, x):
    return (torch.tanh(x @ params["w"]) @ params["v"] - x.sum(1)).square().mean()


def start():
    return torch.linspace(-1, 2, 3, dtype=torch.float64)


def smooth_params():
    return {"w": random(3, 4, seed=0).requires_grad_(), "v": random(4, seed=1).requires_grad_()}


X = random(6, 3, seed=2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("steps", [0, 1, 3, 20])
def test_linear_regression_has_a_closed_form(way, steps):
    """Gradient descent on a quadratic contracts: w_k = w* + M^k (w_0 - w*), M = I - a H; the meta-gradient is (M^k)' g."""
    a, theta = 0.1, start().requires_grad_()
    adapted = adapt(linear, {"w": theta}, (SUPPORT.x, SUPPORT.y), steps, SGD(a), **WAYS[way])["w"]
    best = torch.linalg.lstsq(SUPPORT.x, SUPPORT.y).solution
    power = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - a * SUPPORT.hessian(), steps)
    expected = best + power @ (start() - best)
    torch.testing.assert_close(adapted.detach(), expected, **ROUNDING)
    (got,) = torch.autograd.grad(linear({"w": adapted}, (QUERY.x, QUERY.y)), theta)
    torch.testing.assert_close(got, power.T @ QUERY.gradient(expected), **ROUNDING)


@pytest.mark.parametrize("way", WAYS)
def test_first_order_leaves_the_identity(way):
    theta = start().requires_grad_()
    first, second = (
        adapt(linear, {"w": theta}, (SUPPORT.x, SUPPORT.y), 3, SGD(0.1), first_order, **WAYS[way])["w"]
        for first_order in (True, False)
    )
    assert torch.equal(first, second)
    (jacobian,) = torch.autograd.grad(first, theta, torch.ones_like(first))
    assert torch.equal(jacobian, torch.ones_like(first))
    (jacobian,) = torch.autograd.grad(second, theta, torch.ones_like(second))
    assert (jacobian - 1).abs().min() > 0.1


@pytest.mark.parametrize("way", WAYS)
def test_rates_and_support_have_derivatives(way):
    """One step is w - a 2 x'(x w - y) / n: the slope over a is the gradient, that over y is 2 a x' / n."""
    optimizer, theta, y = SGD(0.1, "tensor"), start(), SUPPORT.y.clone().requires_grad_()
    optimizer.prepare({"w": theta}, 1)
    adapted = adapt(linear, {"w": theta}, (SUPPORT.x, y), 1, optimizer, **WAYS[way])["w"]
    along = QUERY.gradient(adapted.detach())
    over_rate, over_y = torch.autograd.grad(adapted, [optimizer.rates()["w"], y], along)
    torch.testing.assert_close(over_rate, -along @ SUPPORT.gradient(start()), **ROUNDING)
    torch.testing.assert_close(over_y, 2 * 0.1 * SUPPORT.x @ along / 7, **ROUNDING)


@pytest.mark.parametrize("way", WAYS)
def test_what_the_loss_captures_is_a_constant(way):
    """A loss of w.w/2 + w.c, c the very tensor that adapts: one step of 0.1 goes to w - 0.1 (w + c) = 0.8 w, a second to
    0.9 * 0.8 w - 0.1 w = 0.62 w; and that is the derivative too."""
    theta = start().requires_grad_()
    adapted = adapt(lambda at, _: at["w"].square().sum() / 2 + at["w"] @ theta, {"w": theta}, None, 2, SGD(0.1), **WAYS[way])["w"]
    torch.testing.assert_close(adapted.detach(), 0.62 * start(), **ROUNDING)
    (slope,) = torch.autograd.grad(adapted.sum(), theta)
    torch.testing.assert_close(slope, torch.full((3,), 0.62, dtype=torch.float64), **ROUNDING)


@pytest.mark.parametrize("way", WAYS)
def test_the_trajectory_ends_where_adaptation_does(way):
    params = smooth_params()
    visited = adapt(smooth, params, X, 3, Momentum(0.1), trajectory=True, **WAYS[way])
    assert visited[0].keys() == params.keys()
    assert len(visited) == 4
    for steps, reached in enumerate(visited):
        alone = adapt(smooth, params, X, steps, Momentum(0.1), **WAYS[way])
        assert all(torch.equal(reached[name], alone[name]) for name in params)
    assert not any(torch.equal(visited[2][name], visited[3][name]) for name in params)
    assert all(torch.equal(visited[0][name], p) for name, p in params.items())


@pytest.mark.parametrize("way", WAYS)
def test_adaptation_is_pure(way):
    params, optimizer = smooth_params(), Adam(0.1, learn="element", clip_norm=1.0)
    optimizer.prepare(params, 3)
    before = {name: p.detach().clone() for name, p in params.items()}
    state = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
    once, again = (adapt(smooth, params, X, 3, optimizer, **WAYS[way]) for _ in range(2))
    sum(p.sum() for p in once.values()).detach()
    for name, p in params.items():
        assert torch.equal(p, before[name])
        assert p.grad is None
        assert torch.equal(once[name], again[name])
    assert all(torch.equal(tensor, state[name]) for name, tensor in optimizer.state_dict().items())


AROUND = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def inference(tensor):
    with torch.inference_mode():
        return tensor.clone()


@pytest.mark.parametrize("support", [X, inference(X)], ids=["ordinary support", "support made in inference mode"])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.1, clip_norm=1.0)], ids=["SGD", "Adam, clipped"])
def test_values_are_the_same_without_gradients_and_nothing_is_kept(optimizer, way, around, support):
    params = smooth_params()
    expected = adapt(smooth, params, X, 3, optimizer)
    with AROUND[around]():
        got = adapt(smooth, params, support, 3, optimizer, **WAYS[way])
    for name in params:
        assert not got[name].requires_grad
        torch.testing.assert_close(got[name], expected[name].detach(), **ROUNDING)


@pytest.mark.parametrize("way", ["loop", "checkpoint"])
def test_loops_take_support_from_inference_mode_with_gradients_on(way):
    params = smooth_params()
    got, expected = (adapt(smooth, params, support, 2, SGD(0.1), **WAYS[way])["w"] for support in (inference(X), X))
    assert torch.equal(got, expected)
    assert torch.equal(*(torch.autograd.grad(adapted.sum(), params["w"])[0] for adapted in (got, expected)))


def test_it_can_be_vmapped_over_support_sets():
    params, supports = smooth_params(), random(4, 6, 3, seed=5)
    got = torch.func.vmap(lambda x: adapt(smooth, params, x, 3, Adam(0.1, clip_norm=1.0)))(supports)
    for place, support in enumerate(supports):
        alone = adapt(smooth, params, support, 3, Adam(0.1, clip_norm=1.0), loop=True)
        for name in params:
            torch.testing.assert_close(got[name][place].detach(), alone[name].detach(), **ROUNDING)


@pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])
@pytest.mark.parametrize(
    "make", [lambda: SGD(0.1, "element"), lambda: Momentum(0.1, learn="tensor"), lambda: Adam(0.1, learn="tensor")]
)
def test_checkpoints_change_no_bit(make, first_order):
    """The same operations in the same order: recomputed numbers are the very same."""
    params, optimizer = smooth_params(), make()
    optimizer.prepare(params, 4)
    results = []
    for checkpoint in (False, True):
        adapted = adapt(smooth, params, X, 4, optimizer, first_order, checkpoint, loop=True)
        slopes = torch.autograd.grad(smooth(adapted, X + 1), [*params.values(), *optimizer.rates().values()])
        results.append([*adapted.values(), *slopes])
    assert all(torch.equal(plain, recomputed) for plain, recomputed in zip(*results, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_a_parameter_without_use_stays(way):
    params = {"w": start().requires_grad_(), "idle": torch.ones(2, dtype=torch.float64, requires_grad=True)}
    adapted = adapt(linear, params, (SUPPORT.x, SUPPORT.y), 2, Adam(0.1), **WAYS[way])
    assert torch.equal(adapted["idle"], params["idle"])
    slopes = torch.autograd.grad(linear(adapted, (QUERY.x, QUERY.y)) + adapted["idle"].sum(), list(params.values()))
    assert torch.equal(slopes[1], torch.ones(2, dtype=torch.float64))
    assert slopes[0].isfinite().all()


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_without_parameters_moves_nothing(way):
    adapted = adapt(lambda params, x: x.sum(), smooth_params(), X, 2, SGD(0.1), **WAYS[way])
    assert all(torch.equal(adapted[name], p) for name, p in smooth_params().items())


@pytest.mark.parametrize(
    ("params", "steps", "sentence"),
    [
        (smooth_params(), -1, r"^adapt got steps -1; expected a whole number, 0 or more\.$"),
        ({}, 1, r"^adapt got no tensors; expected one at least"),
        ({"w": torch.ones(2, dtype=torch.int64)}, 1, r"^adapt got 'w' of dtype int64; expected real floating-point numbers\."),
        ({"w": 1.0}, 1, r"^adapt got 'w' of type float; expected a floating-point tensor\.$"),
    ],
    ids=["negative steps", "no parameters", "integers", "a number"],
)
def test_what_adapt_refuses(params, steps, sentence):
    with pytest.raises(UsageError, match=sentence):
        adapt(smooth, params, X, steps, SGD(0.1))
