"""Every rule against nested reverse mode."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from gradgrad.derivatives.taylor import taylor
from gradgrad.derivatives.taylor_rules import ALIASES, BLIND, LINEAR, RULES
from nested import COLUMN, V, W, assert_equal_nested, points

UNARY = [
    "exp",
    "expm1",
    "log",
    "log1p",
    "sqrt",
    "rsqrt",
    "sin",
    "cos",
    "sinh",
    "cosh",
    "tanh",
    "sigmoid",
    "erf",
    "square",
    "reciprocal",
]
SPECIAL = ["expit", "expm1", "log1p", "erf"]
OPERATIONS = {
    **{f"torch.{name}": lambda x, name=name: getattr(torch, name)(x * x) for name in [*UNARY, "neg", "negative"]},
    **{f"x.{name}": lambda x, name=name: getattr(torch.sin(x) + 1, name)() for name in [*UNARY, "neg", "negative"]},
    **{f"torch.special.{name}": lambda x, name=name: getattr(torch.special, name)(x * x) for name in SPECIAL},
    "x + number": lambda x: 2 + (x * x + 1),
    "x + tensor": lambda x: (x * x + V) + (V + x) + (x + COLUMN) + (COLUMN + x),
    "x + x": lambda x: x * x + torch.sin(x)[:, None] + x.add(x, alpha=3),
    "x - y": lambda x: (2 - x * x) - (x - 1) + (V - x) - (x - COLUMN) + torch.sub(V, x, alpha=2) + torch.rsub(x, x * x, alpha=2),
    "x * y": lambda x: 2 * x * x * V * COLUMN * torch.exp(x)[:, None, None] + COLUMN * x,
    "x / y": lambda x: x / 2 + x / COLUMN + 3 / x + COLUMN / (1 + x * x) + x / torch.exp(x)[:, None, None] + torch.arange(3) / x,
    "x ** n": lambda x: x**0 + x**1 + x**2 + x**3.0 + x**7 + x**-1 + x**-4 + torch.pow(x, 5) + x.pow(2),
    "x ** r": lambda x: x**0.5 + x**2.5 + x**-1.5,
    "x ** tensor": lambda x: x[:, None] ** torch.arange(-2, 6) + (x**V)[:, None],
    "x ** x": lambda x: x**x + x ** torch.sin(x)[:, None],
    "number ** x": lambda x: 2**x + 0.5 ** (x * x) + torch.pow(3, x),
    "tensor ** x": lambda x: COLUMN**x + torch.arange(1, 4) ** x,
    "matmul": lambda x: (W @ x) @ (x[:, None] * W) @ W @ x + x @ W @ x + COLUMN[:, 0] @ (W.expand(2, 3, 3) @ x),
    "matmul of batches": lambda x: (x[:, None, None] * W) @ x[:, None] + torch.matmul(x, W.expand(3, 1, 3, 3)) @ x[:, None],
    "mm": lambda x: torch.mm(x[:, None], x[None] * x),
    "bmm": lambda x: torch.bmm((x[:, None] * W)[None], W[None] * x),
    "addmm": lambda x: torch.addmm(x * x, x[:, None] * W, W * x, beta=0.5, alpha=2) + torch.addmm(V, W, x[:, None] * W),
    "linear": lambda x: F.linear(x * x, W, V) + F.linear(x, W) + F.linear(V, x[:, None] * W, x) + F.linear(x, V),
    "softplus": lambda x: F.softplus(3 * x * x - 2) + F.softplus(x * x, beta=2, threshold=1.5) + nn.Softplus(0.5, 1)(x * x),
    "silu": lambda x: F.silu(x * x) + nn.SiLU()(x - 3),
    "gelu": lambda x: F.gelu(x * x) + nn.GELU("tanh")(x - 1),
    "logsigmoid": lambda x: F.logsigmoid(x * x) + F.logsigmoid(-x),
    "sum": lambda x: (x[:, None] * W).sum() + torch.sum(x * x[:, None], dim=1, keepdim=True) + (x * x * W).sum((0, 1)),
    "mean": lambda x: (x[:, None] * W).mean() + torch.mean(x * x[:, None], dim=1, keepdim=True) + (x * x * W).mean(0),
    "reshape": lambda x: (x * x * W).reshape(9)[1:].view(2, 4).flatten() * x.reshape(-1)[0] + torch.flatten(x[:, None])[0],
    "transpose": lambda x: (x * W).T + (x * W).mT @ torch.transpose(x * W, 0, 1) + (x * W).permute(1, 0).t(),
    "squeeze": lambda x: (x * x).unsqueeze(0).squeeze() + torch.squeeze(x[None, :, None], -1) + (x * x)[None].expand(4, -1)[0],
    "indexing": lambda x: torch.cat([(x * x)[1:], x[None, [2, 0]][0], x[torch.tensor([0, 0, 1])], (x * x)[..., V > 0]]),
    "stack and cat": lambda x: torch.cat([torch.stack([x * x, V], dim=1), torch.stack((V, x), 1)]) * torch.concat([x, V])[0],
    "chunk and split": lambda x: x.chunk(3)[1] * torch.split(x * x, [1, 2])[1] + torch.chunk(x, 2)[1] + x.split(1)[0],
    "unbind": lambda x: (x * W).unbind()[0] * torch.unbind(x * x)[2] + sum(row for row in x * W),
    "copies": lambda x: (x * x).clone().contiguous().to(torch.float64).double() + x.to("cpu"),
    "dropout": lambda x: F.dropout(x * x, 0.5, training=False) + nn.Dropout(0.3).eval()(x) + nn.Dropout(0.0)(x),
    "like": lambda x: x * x * torch.ones_like(x) + torch.zeros_like(x) + x * x.new_full((3,), 2),
    "shape": lambda x: x * x.shape[0] + x * x.size(0) + x.ndim * x + x.dim() * x + len(x) * x * x + x.numel() * x,
    "module": lambda x: NETWORK(x.unsqueeze(-1)),
}  # fmt: skip


torch.manual_seed(0)
NETWORK = nn.Sequential(*[nn.Linear(1, 8), nn.GELU(), nn.Linear(8, 8), nn.SiLU(), nn.Dropout(), nn.Linear(8, 2)]).double().eval()


@pytest.mark.parametrize("order", [1, 6])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_operation_equals_nested_reverse_mode(operation, order):
    assert_equal_nested(OPERATIONS[operation], points(seed=len(operation)), order)


@pytest.mark.parametrize("operation", ["x * y", "x / y", "matmul", "x ** x", "softplus", "stack and cat", "module"])
def test_operation_along_a_direction(operation):
    assert_equal_nested(OPERATIONS[operation], points(), 5, direction=V)


def test_the_table_above_knows_every_rule():
    """A rule that is added needs a line there."""
    assert len(RULES) == 32
    spelt = " ".join([*UNARY, *map(str, OPERATIONS)]).replace("logsigmoid", "log_sigmoid")
    operators = {"add", "sub", "rsub", "mul", "div", "pow"}
    assert not [name for name in RULES if name not in spelt and name not in operators]
    assert not ALIASES.keys() & (RULES.keys() | LINEAR | BLIND)
    assert set(ALIASES.values()) <= RULES.keys() | LINEAR


def test_whole_powers_are_exact_at_zero():
    x = torch.zeros(2, dtype=torch.float64)
    for n in range(5):
        expected = [math.factorial(n) if k == n else 0 for k in range(7)]
        for power in (n, float(n), torch.tensor(n), torch.tensor([n, n])):
            assert [y[0].item() for y in taylor(lambda x, power=power: x**power, x, 6)] == expected


def test_a_power_that_is_not_whole_gives_nan_at_zero():
    value, *rest = taylor(lambda x: x**1.5, torch.zeros(()), 2)
    assert value == 0
    assert all(y.isnan() for y in rest)


def test_zero_to_the_power_of_a_series_is_constant():
    """Reverse mode gives NaN from order 2 on: 0 * log(0)."""
    assert [y.tolist() for y in taylor(lambda x: 0**x + torch.arange(2) ** (x * x), V[2:], 3)] == [[0, 1], [0, 0], [0, 0], [0, 0]]


def test_a_negative_base_keeps_its_sign():
    x = torch.tensor([-1.5], dtype=torch.float64)
    exponent = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)  # no multiplication: its gradient is wanted
    for actual, expected in zip(taylor(lambda x: x**exponent, x, 5), taylor(lambda x: x**3, x, 5), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
