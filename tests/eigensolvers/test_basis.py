"""A basis in several pieces of memory is the same basis, and takes no more of it than it needs."""

import pytest
import torch
from planted import EPS, operator, outliers, rotation

from gradgrad.eigensolvers import basis as module
from gradgrad.eigensolvers import lanczos
from gradgrad.eigensolvers.basis import Basis

SIZE = 12


@pytest.fixture(params=[1, 3 * SIZE, 100 * SIZE])
def pieces(request, monkeypatch):
    """Rows one by one, three together, all together."""
    monkeypatch.setattr(module, "BLOCK", request.param)


def filled(count):
    basis = Basis(8, torch.empty(SIZE, dtype=torch.float64))
    rows = rotation(SIZE)[:count]
    basis.append(rows[:2])
    basis.append(rows[2:])
    return basis, rows


@pytest.mark.usefixtures("pieces")
def test_rows_coefficients_and_sums():
    basis, rows = filled(7)
    others = rotation(SIZE, seed=1)[:3]
    weights = rotation(7, seed=2)[:, :4]
    assert torch.equal(basis.rows(), rows)
    torch.testing.assert_close(basis.coefficients(others), rows @ others.T, rtol=0, atol=100 * EPS)
    torch.testing.assert_close(basis.combine(weights), weights.T @ rows, rtol=0, atol=100 * EPS)


@pytest.mark.usefixtures("pieces")
def test_what_is_taken_out_is_returned():
    basis, rows = filled(7)
    others = rotation(SIZE, seed=1)[:3].clone()
    before = others.clone()
    along = basis.orthogonalize(others)
    assert (rows @ others.T).abs().max() <= 10 * EPS
    torch.testing.assert_close(others + along.T @ rows, before, rtol=0, atol=100 * EPS)


@pytest.mark.usefixtures("pieces")
def test_rotation_in_place():
    basis, rows = filled(7)
    weights = rotation(7, seed=2)[:, :4]
    basis.rotate(weights)
    torch.testing.assert_close(basis.rows(), weights.T @ rows, rtol=0, atol=100 * EPS)
    basis.append(rotation(SIZE, seed=3)[:2])
    assert basis.count == 6
    assert torch.equal(basis.rows()[4:], rotation(SIZE, seed=3)[:2])


@pytest.mark.usefixtures("pieces")
def test_lanczos_in_pieces():
    values = outliers()
    result = lanczos(operator(values), 4, basis_size=7, tol=1e-8)
    torch.testing.assert_close(result.eigenvalues, values[:4], rtol=1e-8, atol=0)


def test_memory_is_taken_as_vectors_come(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2 * SIZE)
    basis = Basis(8, torch.empty(SIZE, dtype=torch.float64))
    held = []
    for row in rotation(SIZE)[:5]:
        basis.append(row[None])
        held.append(sum(block.numel() for block in basis._blocks) // SIZE)
    assert held == [2, 2, 4, 4, 6]
    basis.rotate(rotation(5)[:, :2])
    assert len(basis._blocks) == 1
