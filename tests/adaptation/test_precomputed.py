"""A known gradient as a loss."""

import pytest
import torch
from family import random

from gradgrad.adaptation.precomputed import with_gradient


def parts(dtype=torch.float64):
    params = [random(2, 3, seed=0).to(dtype).requires_grad_(), random(4, seed=1).to(dtype).requires_grad_()]
    return params, [random(2, 3, seed=2).to(dtype), random(4, seed=3).to(dtype)]


def test_it_is_the_number_with_exactly_these_gradients():
    params, gradients = parts()
    value = torch.tensor(1.5)
    loss = with_gradient(value, params, gradients)
    assert loss.item() == 1.5
    assert loss.data_ptr() != value.data_ptr()
    loss.backward()
    for p, g in zip(params, gradients, strict=True):
        assert torch.equal(p.grad, g)
        assert p.grad.dtype == p.dtype


def test_it_scales_with_the_gradient_that_comes_from_above():
    params, gradients = parts()
    (4 * with_gradient(torch.tensor(1.5), params, gradients) + params[1].sum()).backward()
    assert torch.equal(params[0].grad, 4 * gradients[0])
    assert torch.equal(params[1].grad, 4 * gradients[1] + 1)


def test_a_second_backward_adds():
    params, gradients = parts()
    for _ in range(2):
        with_gradient(torch.tensor(1.5), params, gradients).backward()
    assert torch.equal(params[0].grad, 2 * gradients[0])


def test_given_gradients_are_not_changed():
    params, gradients = parts()
    before = [g.clone() for g in gradients]
    with_gradient(torch.tensor(1.5), params, gradients).backward()
    for p in params:
        p.grad.zero_()
    assert all(torch.equal(g, was) for g, was in zip(gradients, before, strict=True))


@pytest.mark.parametrize("inside", [False, True], ids=["backward outside", "backward inside"])
@pytest.mark.parametrize("of", [torch.float32, torch.bfloat16], ids=str)
def test_it_passes_autocast(of, inside):
    params, gradients = parts(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = with_gradient(torch.tensor(1.5, dtype=of), params, gradients)
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    for p, g in zip(params, gradients, strict=True):
        assert torch.equal(p.grad, g)
        assert p.grad.dtype == torch.float32
