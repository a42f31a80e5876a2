"""Norms and slopes against PyTorch's own."""

import math

import pytest
import torch

from gradgrad.penalties.norms import p_norm

PIECES = [
    torch.tensor([3.0, -4.0], dtype=torch.float64),
    torch.tensor([[1e-3], [0.0]], dtype=torch.float64),
    torch.zeros(0).double(),
]


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 4, math.inf])
def test_value_and_slopes_are_those_of_autograd(p):
    leaves = [piece.clone().requires_grad_() for piece in PIECES]
    expected = torch.linalg.vector_norm(torch.cat([leaf.flatten() for leaf in leaves]), p)
    slopes = torch.autograd.grad(expected, leaves)
    norm = p_norm(PIECES, p)
    torch.testing.assert_close(norm.value, expected.detach(), rtol=1e-14, atol=0)
    for direction, slope in zip(norm.directions, slopes, strict=True):
        torch.testing.assert_close(direction * norm.factor, slope, rtol=1e-13, atol=1e-15)
    expected_slope = torch.cat([slope.flatten() for slope in slopes]).norm()
    torch.testing.assert_close(norm.slope, expected_slope, rtol=1e-13, atol=0)


@pytest.mark.parametrize("p", [1, 2, 4, math.inf])
def test_zero_has_a_slope_of_zero(p):
    norm = p_norm([torch.zeros(2), torch.zeros(1)], p)
    assert norm.value == 0
    assert [(direction * norm.factor).tolist() for direction in norm.directions] == [[0, 0], [0]]
    assert norm.slope == 0


def test_equal_peaks_share_the_slope():
    assert p_norm([torch.tensor([2.0, -2.0, 1.0])], math.inf).directions[0].tolist() == [0.5, -0.5, 0]


def test_high_powers_neither_overflow_nor_vanish():
    for scale in (1e-20, 1e20):
        norm = p_norm([torch.tensor([3.0, 4.0]) * scale], 4)
        assert norm.value.item() == pytest.approx((81 + 256) ** 0.25 * scale, rel=1e-6)
        assert norm.directions[0].isfinite().all()
