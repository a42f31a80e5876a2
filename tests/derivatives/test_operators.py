"""What every linear map promises."""

import pytest
import torch

from gradgrad.derivatives import DenseOperator, ScaledOperator
from gradgrad.errors import UsageError

MATRIX = torch.tensor([[2.0, 1.0], [1.0, 3.0]])


def test_a_matrix_as_an_operator():
    operator = DenseOperator(MATRIX)
    assert (operator.size, operator.dtype, operator.device.type) == (2, torch.float32, "cpu")
    assert operator.matvec(torch.tensor([1.0, 2.0])).tolist() == [4, 7]
    assert torch.equal(operator.matmat(torch.eye(2)), MATRIX)
    assert torch.equal(operator @ torch.eye(2), MATRIX)
    assert (operator @ torch.tensor([1.0, 0.0])).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda o: o.matvec(torch.ones(3)),
            r"\.matvec got a vector of shape \(3,\) and torch\.float32; expected \(2,\) and torch\.float32\.$",
        ),
        (lambda o: o.matvec(torch.ones(2).double()), r"^DenseOperator\.matvec got a vector of shape \(2,\) and torch\.float64"),
        (lambda o: o.matmat(torch.ones(3, 1)), r"\.matmat got a vector of shape \(3, 1\) and torch\.float32; expected \(2, K\)"),
        (lambda o: DenseOperator(torch.ones(2, 3)), r"^DenseOperator got a matrix of shape \(2, 3\); expected a square one\.$"),
    ],
)
def test_bad_input_gets_a_sentence(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call(DenseOperator(MATRIX))


def test_a_matrix_between_diagonal_ones():
    scale = torch.tensor([2.0, 0.5])
    operator = ScaledOperator(DenseOperator(MATRIX), scale)
    assert torch.equal(operator @ torch.eye(2), torch.diag(scale) @ MATRIX @ torch.diag(scale))
    assert (operator @ torch.tensor([1.0, 2.0])).tolist() == [10, 2.5]
    with operator.held():
        assert (operator @ torch.tensor([1.0, 2.0])).tolist() == [10, 2.5]


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        (torch.ones(3), r"^ScaledOperator got a scale of shape \(3,\) and torch\.float32; expected \(2,\) and torch\.float32\.$"),
        (torch.ones(2).double(), r"got a scale of shape \(2,\) and torch\.float64"),
        (
            torch.tensor([1.0, 0.0]),
            r"^ScaledOperator got a scale with entries that are not positive and finite\.\nwrite:    prec",
        ),
        (torch.tensor([1.0, torch.nan]), r"not positive and finite"),
        (torch.tensor([1.0, torch.inf]), r"not positive and finite"),
    ],
)
def test_a_bad_scale_gets_a_sentence(scale, sentence):
    with pytest.raises(UsageError, match=sentence):
        ScaledOperator(DenseOperator(MATRIX), scale)
