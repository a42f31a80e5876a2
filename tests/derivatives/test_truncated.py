"""Series beside tensors and numbers, and what they refuse."""

import math
import operator

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradgrad.derivatives.taylor import taylor
from gradgrad.errors import UsageError
from nested import V, W, assert_equal_nested, points


@given(data=st.data())
@settings(max_examples=40)
def test_series_and_tensors_broadcast_as_tensors_do(data):
    full = data.draw(st.lists(st.integers(1, 3), max_size=3))
    shapes = [[n if data.draw(st.booleans()) else 1 for n in full][data.draw(st.integers(0, len(full))) :] for _ in range(2)]
    x, c = points(shape=shapes[0]), points(seed=1, shape=shapes[1])
    operation = data.draw(st.sampled_from([operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]))
    for f in (lambda x: operation(x * x, c), lambda x: operation(c, x * x), lambda x: operation(x * x, x.sum() * c)):
        assert taylor(f, x, 1)[1].shape == torch.broadcast_shapes(x.shape, c.shape)
        assert_equal_nested(f, x, 2)


@pytest.mark.parametrize(
    "other", [torch.tensor(0.1, dtype=torch.float64), torch.ones(2, dtype=torch.float64), torch.tensor(3), 0.1]
)
@pytest.mark.parametrize("operation", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_promotion_is_torchs(operation, other, shape):
    x = torch.full(shape, 0.5)
    for f in (lambda x: operation(x, other), lambda x: operation(other, x)):
        first = taylor(f, x, 2)
        assert {y.dtype for y in first} == {f(x).dtype}
        torch.testing.assert_close(first[0], f(x))


def test_errors_of_shape_are_torchs_own():
    with pytest.raises(RuntimeError, match="both arguments to matmul need to be at least 1D"):
        taylor(lambda x: x @ W, torch.tensor(1.0), 1)
    with pytest.raises(TypeError, match="0-d"):
        taylor(len, torch.tensor(1.0), 1)


def test_numpy_numbers_leave_the_operator_to_the_series():
    assert [y.tolist() for y in taylor(lambda x: numpy.float64(2) * x, torch.tensor([3.0]), 1)] == [[6], [2]]


def test_assignment_in_python_changes_the_tensor_as_in_torch():
    def f(x):
        before, kept = x, x.clone()
        x += 1
        x *= x
        return before - kept

    assert [y.item() for y in taylor(f, torch.tensor(2.0), 3)] == [7, 5, 2, 0]


def _in_place(x):
    y = torch.ones(3, dtype=torch.float64)
    y += x
    return y


def _assigned(x):
    y = torch.ones(3, dtype=torch.float64)
    y[0] = x[0]
    return y


NO_RULE = {
    "torch.special.i0": torch.special.i0,
    "torch.nn.functional.relu": nn.ReLU(),
    "torch.nn.functional.layer_norm": nn.LayerNorm(3),
    "torch.nn.functional.silu": nn.SiLU(inplace=True),
    "torch.Tensor.relu": lambda x: x.relu(),
    "torch.Tensor.abs": abs,
    "torch.abs": torch.abs,
    "torch.where": lambda x: torch.where(V > 0, x, V),
    "torch.Tensor.__gt__": lambda x: x if x > 0 else -x,
    "torch.Tensor.__eq__": lambda x: x if x == 0 else -x,
    "torch.gt": lambda x: torch.gt(V, x),
    "torch.Tensor.__bool__": lambda x: x if x else -x,
    "torch.Tensor.__float__": lambda x: torch.tensor(math.sin(x)),
    "torch.Tensor.item": lambda x: x[0].item(),
    "torch.Tensor.detach": lambda x: x.detach(),
    "torch.Tensor.grad": lambda x: x.grad,
    "torch.Tensor.add_": lambda x: x.add_(1),
    "torch.Tensor.exp_": lambda x: x.exp_(),
    "torch.Tensor.__setitem__": lambda x: x.__setitem__(0, 1),
    "torch.Tensor.__getitem__": lambda x: V[x],
    "torch.remainder": lambda x: x % 2,
    "torch.exp": lambda x: torch.exp(x, out=V),
    "torch.div": lambda x: torch.div(x, 2, rounding_mode="floor"),
    "torch.autograd.grad": lambda x: torch.autograd.grad(x.sum(), V),
}
NO_RULE_OF_A_TENSOR = {"torch.Tensor.add_": _in_place, "torch.Tensor.__setitem__": _assigned}


@pytest.mark.parametrize(("name", "f"), [*NO_RULE.items(), *NO_RULE_OF_A_TENSOR.items()])
def test_an_operation_without_a_rule_is_named(name, f):
    with pytest.raises(UsageError, match=r"has no Taylor rule") as error:
        taylor(f, V, 2)
    first, second, third = str(error.value).splitlines()
    assert name in first
    assert first.endswith(", which has no Taylor rule.")
    assert second.startswith("expected: one of add, addmm, ")
    assert third == "write:    gradgrad.derivatives.derivatives(f, x, order), which nests reverse mode and knows every operation"


def test_a_missing_rule_is_a_missing_attribute():
    seen = {}
    taylor(lambda x: seen.update(relu=hasattr(x, "relu"), tanh=hasattr(x, "tanh"), other=hasattr(x, "nonsense")) or x, V, 1)
    assert seen == {"relu": False, "tanh": True, "other": False}
