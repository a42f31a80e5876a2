"""The recurrences against each other, against mpmath's own Taylor coefficients, and against polynomial arithmetic."""

import mpmath
import numpy
import pytest
import torch

from gradgrad.derivatives import series

EPS = torch.finfo(torch.float64).eps
K = 12
# K + 1 terms in a sum of products, some tens of them in a row, of coefficients below 1e2.
CLOSE = {"rtol": 0, "atol": 1e4 * EPS}


def random_series(seed, shape=(4,), first=None):
    """Coefficients fall like 2^-k, so that no result grows."""
    stack = torch.randn(K + 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    stack = stack * 0.5 ** torch.arange(K + 1).view(-1, *[1] * len(shape))
    return stack if first is None else torch.cat([torch.full_like(stack[:1], first), stack[1:]])


def test_a_product_is_numpys_product_of_polynomials():
    a, b = random_series(1), random_series(2)
    expected = [numpy.convolve(a[:, i].numpy(), b[:, i].numpy())[: K + 1] for i in range(4)]
    torch.testing.assert_close(series.multiply(a, b), torch.tensor(numpy.stack(expected, 1)), **CLOSE)


def test_a_product_of_matrices_keeps_their_order():
    a, b = random_series(1, (2, 3)), random_series(2, (3, 2))
    entry = sum(series.multiply(a[:, 1, i], b[:, i, 0]) for i in range(3))
    torch.testing.assert_close(series.multiply(a, b, torch.matmul)[:, 1, 0], entry, **CLOSE)


def test_division_undoes_multiplication():
    a, b = random_series(1), random_series(2, first=1.5)
    torch.testing.assert_close(series.divide(series.multiply(a, b), b), a, **CLOSE)


def test_division_broadcasts():
    a, b = random_series(1, (3, 1)), random_series(2, (1, 4), first=1.5)
    torch.testing.assert_close(series.divide(a, b), series.divide(a.expand(-1, 3, 4), b.expand(-1, 3, 4)), rtol=0, atol=0)


def test_integral_undoes_derivative():
    a = random_series(1)
    torch.testing.assert_close(series.integral(a[0], series.derivative(a)), a, rtol=2 * EPS, atol=0)


def test_a_constant_has_zeros():
    stack = series.constant(torch.tensor([2.0, 3.0]), like=torch.zeros(3, 7))
    assert stack.tolist() == [[2, 3], [0, 0], [0, 0]]


def exponential(a):
    return series.exponential(a[0].exp(), series.derivative(a))


def logarithm(a):
    return series.logarithm(a[0].log(), a)


def circular(a):
    return series.sine_and_cosine(a[0].sin(), a[0].cos(), -1, a)


def hyperbolic(a):
    return series.sine_and_cosine(a[0].sinh(), a[0].cosh(), 1, a)


def one(a):
    return series.constant(torch.ones_like(a[0]), a)


def of_half(a):
    """A scale of 1/2 keeps exp(a) tame."""
    return a / 2


IDENTITIES = {
    "exp log": lambda a: (exponential(logarithm(a)), a),
    "square of the root": lambda a: (series.multiply(series.square_root(a), series.square_root(a)), a),
    "sin^2 + cos^2": lambda a: (sum(series.multiply(y, y) for y in circular(a)), one(a)),
    "cosh + sinh": lambda a: (sum(hyperbolic(of_half(a))), exponential(of_half(a))),
    "tanh": lambda a: (series.tanh(of_half(a)), series.divide(*hyperbolic(of_half(a)))),
    "sigmoid": lambda a: (series.sigmoid(a), (one(a) + series.tanh(a / 2)) / 2),
    "erf is odd": lambda a: (series.error_function(-a), -series.error_function(a)),
    "antiderivative of exp": lambda a: (series.antiderivative(a[0].exp(), exponential(a), a), exponential(a)),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity(name):
    left, right = IDENTITIES[name](random_series(3, first=1.25))
    torch.testing.assert_close(left, right, **CLOSE)


FUNCTIONS = {
    "exp": (exponential, mpmath.exp),
    "log": (logarithm, mpmath.log),
    "sqrt": (series.square_root, mpmath.sqrt),
    "sin": (lambda a: circular(a)[0], mpmath.sin),
    "cos": (lambda a: circular(a)[1], mpmath.cos),
    "sinh": (lambda a: hyperbolic(a)[0], mpmath.sinh),
    "cosh": (lambda a: hyperbolic(a)[1], mpmath.cosh),
    "tanh": (series.tanh, mpmath.tanh),
    "sigmoid": (series.sigmoid, lambda x: 1 / (1 + mpmath.exp(-x))),
    "erf": (series.error_function, mpmath.erf),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_coefficients_equal_those_of_mpmath(name):
    ours, theirs = FUNCTIONS[name]
    point = 0.75
    a = torch.zeros(K + 1, dtype=torch.float64)
    a[0], a[1] = point, 1
    with mpmath.workdps(60):  # mpmath differentiates numerically, and loses most of its digits
        expected = torch.tensor([float(c) for c in mpmath.taylor(theirs, mpmath.mpf(point), K)], dtype=torch.float64)
    torch.testing.assert_close(ours(a), expected, rtol=1e3 * EPS, atol=1e2 * EPS)


def test_the_tail_of_a_sigmoid_is_exact_where_one_minus_it_cancels():
    a = torch.tensor([40.0, 1.0, 0.0], dtype=torch.float64)  # 1 - sigmoid(40) is 4e-18, below an ulp of 1
    with mpmath.workdps(60):
        slope = mpmath.exp(-40) / (1 + mpmath.exp(-40)) ** 2
    assert series.sigmoid(a)[1].item() == pytest.approx(float(slope), rel=8 * EPS)
