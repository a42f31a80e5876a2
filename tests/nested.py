"""The oracle of Taylor arithmetic: one reverse pass inside another, for every entry of the output."""

import torch

from gradgrad.derivatives.taylor import taylor

W = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) / 2
V = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
COLUMN = torch.tensor([[0.5], [2.0]], dtype=torch.float64)


def points(seed=0, shape=(3,)):
    """In (0.2, 1.7), where every function of the table is smooth."""
    return 0.2 + 1.5 * torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def nested(f, x, order, direction=None):
    """d^k/dt^k f(x + t v): one reverse pass in t for each order, of <f, u>, whose gradient in u is the answer for every entry."""
    t = torch.zeros((), dtype=x.dtype, requires_grad=True)
    output = f(x + t * (torch.ones_like(x) if direction is None else direction))
    u = torch.ones_like(output, requires_grad=True)
    derivative = (output * u).sum()
    rows = [output.detach()]
    for _ in range(order):
        derivative = _slope(derivative, t)
        rows.append(_slope(derivative, u).detach())
    return rows


def _slope(y, variable):
    if not y.requires_grad:
        return torch.zeros_like(variable)
    (slope,) = torch.autograd.grad(y, variable, create_graph=True, allow_unused=True)
    return torch.zeros_like(variable) if slope is None else slope


def assert_equal_nested(f, x, order, direction=None):
    ours = taylor(f, x, order, direction)
    assert len(ours) == order + 1
    scale = 0.0
    for k, (actual, expected) in enumerate(zip(ours, nested(f, x, order, direction), strict=True)):
        # Both sum up to some hundred products for order 6, and both err by eps for each, relative to the largest of them;
        # 1e-12 is 4500 eps. Where terms cancel (in the oracle not even to 0), those of lower orders tell their size.
        scale = max(scale, expected.abs().max().item())
        torch.testing.assert_close(actual.detach(), expected, rtol=0, atol=1e-12 * scale, msg=lambda m, k=k: f"{k}: {m}")
