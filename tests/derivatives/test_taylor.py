"""Derivatives of all orders against closed forms and against nested reverse mode."""

import math

import pytest
import sympy
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradgrad.derivatives.taylor import taylor
from gradgrad.errors import UsageError
from gradgrad.networks import MLP
from nested import V, W, assert_equal_nested, points

EPS = torch.finfo(torch.float64).eps


def test_a_polynomial_is_exact_and_beyond_its_degree_zero():
    x = torch.tensor([-2.0, 0.0, 1.0])
    assert [y.tolist() for y in taylor(lambda x: 2 * x**3, x, 5)] == [
        [-16, 0, 2], [24, 0, 6], [-24, 0, 12], [12, 12, 12], [0, 0, 0], [0, 0, 0],
    ]  # fmt: skip


@pytest.mark.parametrize("f", [lambda x: 3 * x - 1, lambda x: (x + 2) / 4, lambda x: x.float(), lambda x: x**1 + x**0])
def test_a_linear_function_has_exact_zeros(f):
    for higher in taylor(f, points(), 6)[2:]:
        assert not higher.any()


def test_exp_of_sine_equals_sympy():
    t = sympy.Symbol("t")
    x = points(shape=(5,))
    for k, actual in enumerate(taylor(lambda x: torch.exp(torch.sin(x)), x, 8)):
        formula = sympy.lambdify(t, sympy.diff(sympy.exp(sympy.sin(t)), t, k), "mpmath")
        expected = torch.tensor([float(formula(point)) for point in x.tolist()], dtype=torch.float64)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12 * expected.abs().max().item())


def test_coefficients_are_without_the_factorials():
    x = points()
    for k, (c, y) in enumerate(zip(taylor(torch.exp, x, 8, coefficients=True), taylor(torch.exp, x, 8), strict=True)):
        torch.testing.assert_close(c * math.factorial(k), y, rtol=EPS, atol=0)
        torch.testing.assert_close(y, x.exp(), rtol=64 * EPS, atol=0)


def test_an_mlp_of_order_8_equals_nested_reverse_mode():
    torch.manual_seed(1)
    net = MLP(1, 1, (64, 64)).double()
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None].requires_grad_()
    expected = net(x)
    for k, actual in enumerate(taylor(net, x.detach(), 8)):
        if k > 0:
            (expected,) = torch.autograd.grad(expected.sum(), x, create_graph=k < 8)
        # Some hundred products per order, each off by eps = 2e-16 of the largest, in the recurrence and in the oracle.
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12 * expected.abs().max().item())


def test_an_mlp_of_a_vector_along_a_direction():
    net = MLP(3, 2, (16, 16), "softplus").double()
    assert_equal_nested(net, points(shape=(4, 3)), 5, direction=points(seed=1, shape=(4, 3)))


@pytest.mark.parametrize("n", [0, 1, 2, 3])
@pytest.mark.parametrize("f", [torch.exp, lambda x: x**3 / (1 + x * x), lambda x: torch.tanh(x).sum() * x ** torch.sin(x)])
def test_the_results_have_right_gradients_of_their_own(f, n):
    x = points().requires_grad_()
    torch.autograd.gradcheck(lambda x: taylor(f, x, 3)[n], x)
    torch.autograd.gradgradcheck(lambda x: taylor(f, x, 3)[n], x)


def test_the_results_are_differentiable_in_direction_and_parameters():
    v, w = V.clone().requires_grad_(), W.clone().requires_grad_()
    torch.autograd.gradcheck(lambda v, w: taylor(lambda x: (2 + torch.tanh(x @ w)) ** w[0], points(), 3, v)[3], (v, w))


def test_parameters_get_the_gradient_of_nested_reverse_mode():
    net = MLP(1, 1, (8,)).double()
    x = points(shape=(6, 1)).requires_grad_()
    taylor(net, x.detach(), 2)[2].square().sum().backward()
    first = torch.autograd.grad(net(x).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(first.sum(), x, create_graph=True)[0]
    expected = torch.autograd.grad(second.square().sum(), [*net.parameters()], allow_unused=True)
    for p, gradient in zip(net.parameters(), expected, strict=True):
        gradient = torch.zeros_like(p) if gradient is None else gradient  # the last bias
        torch.testing.assert_close(p.grad, gradient, rtol=1e-12, atol=1e-12)


@given(
    shape=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    order=st.integers(0, 4),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
@settings(max_examples=40)
def test_shapes_and_dtypes(shape, order, dtype):
    x = points(shape=shape).to(dtype)
    results = taylor(lambda x: F.silu(x) * 2 / (1 + x**2) + torch.sin(x), x, order)
    assert len(results) == order + 1
    assert all(y.shape == shape and y.dtype == dtype for y in results)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    net, x = MLP(1, 1, (4,)).double(), points(shape=(2, 1))
    expected = taylor(net, x, 3)
    with mode():
        actual = taylor(net, x, 3)
    assert not any(y.requires_grad for y in actual)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0)


def test_a_constant_function():
    x = points()
    assert [y.tolist() for y in taylor(lambda x: torch.tensor(3.0), x, 2)] == [[3] * 3, [0] * 3, [0] * 3]
    assert [y.tolist() for y in taylor(lambda x: torch.tensor(3.0), x, 2, V)] == [3, 0, 0]
    assert [y.tolist() for y in taylor(lambda x: torch.tensor([3.0, 4.0]), x, 1)] == [[3, 4], [0, 0]]


def test_order_0_is_the_function_itself():
    assert taylor(torch.special.i0, V, 0)[0].equal(torch.special.i0(V))


def test_an_inner_derivative_in_a_variable_of_its_own():
    # d/dx of x * (d/dy y^2 at 3) = 6: the inner derivative knows nothing of x.
    y = torch.tensor(3.0)
    assert taylor(lambda x: x * taylor(lambda y: y * y, y, 1)[1], torch.tensor(2.0), 2) == (12, 6, 0)


NESTED = (
    r"^taylor got the series of another call of taylor; expected one variable at a time(.|\n)*write: .*derivatives\(f, x, order\)"
)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x * taylor(lambda y: x + y, torch.tensor(1.0), 1)[1],  # the classic of perturbation confusion
        lambda x: taylor(torch.exp, x, 1)[1],
        lambda x: taylor(lambda y: x, torch.tensor(1.0), 1)[1],
        lambda x: taylor(torch.exp, torch.tensor(1.0), 1, x)[1],
        lambda x: taylor(lambda y: torch.stack([x, y]), torch.tensor(1.0), 1)[1],
    ],
)
def test_series_of_series_are_refused(f):
    with pytest.raises(UsageError, match=NESTED):
        taylor(f, torch.tensor(2.0), 1)


MISTAKES = {
    "integers": (lambda: taylor(torch.exp, torch.arange(3), 1), r"^taylor got 'x' of dtype int64; expected real floating-point"),
    "complex": (lambda: taylor(torch.exp, V.to(torch.complex64), 1), r"^taylor got 'x' of dtype complex64; expected real"),
    "no tensor": (lambda: taylor(torch.exp, 1.5, 1), r"^taylor got 'x' of type float; expected a floating-point tensor\.$"),
    "negative order": (lambda: taylor(torch.exp, V, -1), r"^taylor got order -1; expected a whole number that is 0 \(f itself\)"),
    "half an order": (lambda: taylor(torch.exp, V, 1.0), r"^taylor got order 1\.0; expected a whole number"),
    "truth as order": (lambda: taylor(torch.exp, V, True), r"^taylor got order True; expected a whole number"),
    "great order": (
        lambda: taylor(torch.exp, V.float(), 35),
        r"^taylor got order 35, of which the factorial overflows torch\.float32; write coefficients=True\.$",
    ),
    "direction": (lambda: taylor(torch.exp, V, 1, V[:2]), r"^taylor got a direction of shape \(2,\); expected that of x, \(3,\)"),
    "output": (lambda: taylor(lambda x: 3.0, V, 1), r"^taylor got f with an output of type float; expected a tensor\.$"),
    "outputs": (lambda: taylor(lambda x: (x, x), V, 1), r"^taylor got f with an output of type tuple; expected a tensor\.$"),
    "turned complex": (
        lambda: taylor(lambda x: x * 1j, V, 1),
        r"^taylor got f with an intermediate result of torch\.complex128; expected real floating-point numbers\.$",
    ),
    "integer": (lambda: taylor(lambda x: x.to(torch.long), V, 1), r"^taylor got f with an intermediate result of torch.int64"),
    "dropout": (
        lambda: taylor(nn.Dropout(), V, 1),
        r"^taylor got dropout in training mode, of which every call is another function\.\nwrite:    module\.eval\(\)$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_a_sentence(mistake):
    call, sentence = MISTAKES[mistake]
    with pytest.raises(UsageError, match=sentence):
        call()


def test_in_place_operators_reach_other_names_of_the_same_tensor():
    def aliased(x):
        h = x * 2
        g = h
        g += x * x
        g *= 3
        return h

    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert [c.tolist() for c in taylor(aliased, x, 2)] == [[9, 24], [12, 18], [6, 6]]


def test_in_place_operators_on_views_are_refused():
    def through_a_view(x):
        h = x * 2
        row = h[0]
        row += 1
        return h

    def under_a_view(x):
        h = x * 2
        row = h[0]
        h += 1
        return row

    for f in (through_a_view, under_a_view):
        with pytest.raises(
            UsageError, match=r"^taylor got torch\.Tensor\.__iadd__ on a tensor with views, which has no Taylor rule\."
        ):
            taylor(f, torch.ones(2, 2), 1)


def test_autocast_around_is_left_for_the_derivatives():
    net = torch.nn.Linear(3, 3)
    x = torch.linspace(-1, 1, 6).view(2, 3)
    expected = taylor(lambda x: net(x).tanh(), x, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, taylor(lambda x: net(x).tanh(), x, 3), expected))


def test_constants_can_be_differentiated():
    x = torch.ones(3, requires_grad=True)
    for c in taylor(lambda x: torch.ones(3), x, 2):
        assert torch.autograd.grad(c.sum(), x)[0].tolist() == [0, 0, 0]
