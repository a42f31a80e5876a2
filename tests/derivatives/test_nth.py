"""Derivatives of any order against closed forms."""

import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradgrad.derivatives import derivatives, directional_derivative, nth_derivative
from gradgrad.errors import UsageError

EPS = torch.finfo(torch.float64).eps


def test_twice_the_cube_at_minus_two():
    x = torch.tensor(-2.0, dtype=torch.float64)
    assert [d.item() for d in derivatives(lambda t: 2 * t**3, x, 5)] == [-16, 24, -24, 12, 0, 0]


def test_exponential_of_sine_to_order_eight():
    points = torch.linspace(-2, 2, 7, dtype=torch.float64)
    t = sympy.Symbol("t")
    expression = sympy.exp(sympy.sin(t))
    for order, actual in enumerate(derivatives(lambda x: x.sin().exp(), points, 8)):
        form = sympy.diff(expression, t, order)
        exact = torch.tensor([float(form.evalf(30, subs={t: float(p)})) for p in points], dtype=torch.float64)
        # The terms of order n number at most 4^n, each off by some ulps of the largest.
        torch.testing.assert_close(actual, exact, rtol=1e-12, atol=4**order * EPS * exact.abs().max().item())


@given(st.lists(st.integers(0, 3), max_size=3), st.integers(0, 4))
def test_any_shape(shape, order):
    x = torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    actual = nth_derivative(torch.sin, order)(x)
    assert actual.shape == x.shape
    torch.testing.assert_close(actual, torch.sin(x + order * torch.pi / 2), rtol=0, atol=16 * EPS)


@pytest.mark.parametrize(
    "constant",
    [lambda x: torch.full_like(x, 7.0), lambda x: x * 0 + 7, lambda x: torch.tensor([7.0, 7.0])],
    ids=["new", "zero", "old"],
)
def test_the_derivatives_of_a_constant_are_zero(constant):
    x = torch.ones(2)
    assert [d.tolist() for d in derivatives(constant, x, 3)] == [[7, 7], [0, 0], [0, 0], [0, 0]]


def test_beyond_the_degree_of_a_piecewise_linear_function_are_zeros():
    assert nth_derivative(torch.nn.functional.leaky_relu, 4)(torch.tensor([-1.0, 2.0])).tolist() == [0, 0]


def test_a_module_applied_to_a_column():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    x = torch.linspace(-1, 1, 5, dtype=torch.float64).unsqueeze(1)
    hidden = net[0](x).tanh()
    slope = (net[2].weight * net[0].weight.T) * -2 * hidden * (1 - hidden**2)
    second = (slope * net[0].weight.T).sum(1, keepdim=True)
    actual = nth_derivative(net, 2)(x)
    torch.testing.assert_close(actual, second, rtol=1e-12, atol=64 * EPS)
    actual.sum().backward()  # and with respect to the weights
    assert net[0].weight.grad.abs().sum() > 0


def test_no_perturbation_is_confused_with_another():
    # d/dx [ x * d/dy (x + y) ] = 1, and d/dx [ x * d/dy x ] = 0: the inner derivative holds x constant, also at y = x.
    outer = nth_derivative(lambda x: x * nth_derivative(lambda y: x + y, 1)(x), 1)
    assert outer(torch.tensor(3.0)).item() == 1
    zero = nth_derivative(lambda x: x * nth_derivative(lambda y: x * torch.ones_like(y), 1)(x), 1)
    assert zero(torch.tensor(3.0)).item() == 0
    assert zero(torch.tensor(3.0, requires_grad=True)).item() == 0


def test_directional_derivatives_of_a_map_between_spaces():
    # f(x) = (x0 x1, x0^3): along v its derivatives are worked out on paper.
    def f(x):
        return torch.stack([x[0] * x[1], x[0] ** 3])

    x, v = torch.tensor([2.0, 3.0]), torch.tensor([1.0, -1.0])
    expected = [[6, 8], [1, 12], [-2, 12], [0, 6], [0, 0]]
    assert [directional_derivative(f, x, v, n).tolist() for n in range(5)] == expected


def test_the_original_stays_as_it_is():
    x = torch.ones(2)
    nth_derivative(torch.sin, 2)(x)
    assert not x.requires_grad
    assert x.grad is None


@pytest.mark.parametrize("order", [-1, 1.5, True])
def test_a_senseless_order_is_refused(order):
    sentence = rf"^nth_derivative got order {order}; expected a whole number that is 0 \(f itself\) or larger\.$"
    with pytest.raises(UsageError, match=sentence):
        nth_derivative(torch.sin, order)
    with pytest.raises(UsageError, match=sentence.replace("nth_derivative", "derivatives")):
        derivatives(torch.sin, torch.ones(1), order)


@pytest.mark.parametrize(
    ("dtype", "advice"), [(torch.int64, r"x\.double\(\)"), (torch.complex64, "differentiate with respect to real")]
)
def test_integers_and_complex_numbers_are_refused(dtype, advice):
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        UsageError, match=rf"^nth_derivative got 'x' of dtype {name}; expected real floating-point numbers\.\nwrite:    {advice}"
    ):
        nth_derivative(torch.square, 1)(torch.ones(2, dtype=dtype))


def test_a_function_of_the_whole_is_not_elementwise():
    with pytest.raises(
        UsageError, match=r"^derivatives got f with an output of shape \(\) for x of shape \(3,\); expected an elementwise f"
    ):
        derivatives(torch.sum, torch.ones(3), 1)


def test_an_output_that_is_no_tensor_is_refused():
    with pytest.raises(UsageError, match=r"^derivatives got an output of type float; expected a floating-point tensor\.$"):
        derivatives(lambda x: 1.0, torch.ones(3), 1)


def test_a_direction_of_another_shape_is_refused():
    with pytest.raises(UsageError, match=r"^directional_derivative got v of shape \(2,\); expected that of x, \(3,\)\.$"):
        directional_derivative(torch.sin, torch.ones(3), torch.ones(2))


@pytest.mark.parametrize("f", [lambda x: x**2, torch.ones_like, lambda x: torch.ones(2), lambda x: x])
def test_zeros_can_be_differentiated_again(f):
    x = torch.tensor([1.0, float("inf")], requires_grad=True)
    for derivative in derivatives(f, x, 3)[1:]:
        (slope,) = torch.autograd.grad(derivative.sum(), x, create_graph=True)
        assert slope.isfinite().all()
    nth_derivative(f, 4)(x).sum().backward()
    assert x.grad.tolist() == [0, 0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: nth_derivative(lambda x: torch.exp(1j * x), 1)(torch.ones(2)),
        lambda: directional_derivative(lambda x: torch.exp(1j * x), torch.ones(2), torch.ones(2)),
    ],
)
def test_complex_outputs_are_refused(call):
    with pytest.raises(UsageError, match=r"^\w+ got an output of dtype complex64; expected real floating-point numbers\."):
        call()
