"""Every primitive passes gradcheck and gradgradcheck: one table, to which a new one is added."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from gradgrad.derivatives import (
    derivatives,
    directional_derivative,
    ggn_product,
    gradient,
    hvp,
    jvp,
    laplacian,
    nth_derivative,
    taylor,
    vjp,
)


def _values(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


X, V = _values(3, seed=0), _values(3, seed=1)
W, DW, U = _values(2, 3, seed=2), _values(2, 3, seed=3), _values(2, seed=4)


def smooth(x):
    return torch.exp(torch.sin(x))


def scalar(params):
    return (torch.tanh(params["w"] @ params["x"]) * params["x"][:2]).square().sum()


def outputs(params):
    return torch.tanh(params["w"] @ params["x"])


PRIMITIVES = {
    "nth_derivative": (lambda x: nth_derivative(smooth, 3)(x), (X,)),
    "derivatives": (lambda x: derivatives(smooth, x, 2), (X,)),
    "directional_derivative": (lambda x, v: directional_derivative(lambda y: smooth(y).cumsum(0), x, v, 2), (X, V)),
    "taylor": (lambda x: taylor(smooth, x, 3), (X,)),
    "taylor along a direction": (lambda x, v: taylor(lambda y: smooth(y).sum(), x, 2, direction=v), (X, V)),
    "gradient": (lambda x, w: tuple(gradient(scalar, {"x": x, "w": w}).values()), (X, W)),
    "hvp": (lambda x, w, v, dw: tuple(hvp(scalar, {"x": x, "w": w}, {"x": v, "w": dw}).values()), (X, W, V, DW)),
    "jvp": (lambda x, w, v, dw: jvp(outputs, {"x": x, "w": w}, {"x": v, "w": dw}), (X, W, V, DW)),
    "vjp": (lambda x, w, u: tuple(vjp(outputs, {"x": x, "w": w}, u).values()), (X, W, U)),
    "ggn_product": (
        lambda x, w, v, dw: tuple(ggn_product(outputs, lambda y: y.exp().sum(), {"x": x, "w": w}, {"x": v, "w": dw}).values()),
        (X, W, V, DW),
    ),
    "laplacian": (lambda x, w: laplacian(scalar, {"x": x, "w": w}), (X, W)),
    "laplacian, estimated": (
        lambda x, w: laplacian(scalar, {"x": x, "w": w}, samples=2, generator=torch.Generator().manual_seed(0)),
        (X, W),
    ),
}


@pytest.mark.parametrize("name", PRIMITIVES)
def test_gradcheck_and_gradgradcheck(name):
    function, arguments = PRIMITIVES[name]
    assert gradcheck(function, arguments)
    assert gradgradcheck(function, arguments)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_without_gradients_around_it_the_numbers_are_the_same_and_carry_no_graph(name):
    function, arguments = PRIMITIVES[name]
    expected = _several(function(*arguments))
    with torch.no_grad():
        quiet = _several(function(*arguments))
    with torch.inference_mode():
        inference = _several(function(*(a * 1 for a in arguments)))  # `a * 1` is an inference tensor
    for a, b, c in zip(expected, quiet, inference, strict=True):
        assert a.requires_grad
        assert not b.requires_grad
        assert not c.requires_grad
        torch.testing.assert_close(b, a.detach(), rtol=0, atol=0)
        torch.testing.assert_close(c.clone(), a.detach(), rtol=0, atol=0)


def _several(result):
    return result if isinstance(result, tuple) else (result,)
