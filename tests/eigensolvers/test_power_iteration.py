"""Power iteration against planted spectra, and against two errors of its peers."""

import planted
import pytest
import torch
from planted import EPS, SPECTRA

from gradgrad.eigensolvers import power_iteration


def diagonal(*values):
    return planted.DenseOperator(torch.diag(torch.tensor(values, dtype=torch.float64)))


@pytest.mark.parametrize("name", ["indefinite", "negative", "cluster", "multiple", "rank deficient", "one", "zero"])
@pytest.mark.parametrize("which", ["LM", "LA", "SA"])
@pytest.mark.parametrize("k", [1, 3])
def test_finds_the_planted_pairs(name, which, k):
    values = SPECTRA[name]
    dense = planted.matrix(values)
    result = power_iteration(planted.operator(values), k, which, tol=1e-3, max_matvecs=3000)
    assert result.converged.all()
    norm = max(abs(value) for value in values)
    # An eigenvalue's error is at most its residual; a cluster that is narrower is one eigenvalue.
    torch.testing.assert_close(result.eigenvalues, planted.wanted(values, k, which), rtol=2e-3, atol=100 * EPS * norm)
    slack = 100 * EPS * norm / result.eigenvalues.abs().clamp_min(EPS**0.5 * norm or 1.0)
    assert ((result.residuals - planted.true_residuals(dense, result)).abs() <= slack).all()
    v = result.eigenvectors
    torch.testing.assert_close(v.T @ v, torch.eye(k, dtype=torch.float64), rtol=0, atol=100 * EPS)


def test_the_eigenvalue_is_not_shifted():
    # hessian-eigenthings 1.0.0a6 with momentum 1 and 4: 9.0 and 6.0, "converged".
    result = power_iteration(diagonal(10.0, 5.0, 1.0, 0.5), 1, tol=1e-9)
    torch.testing.assert_close(result.eigenvalues.item(), 10.0, rtol=1e-9, atol=0)
    shifted = power_iteration(diagonal(4.0, 1.0, -10.0), 1, "LA", tol=1e-9)
    torch.testing.assert_close(shifted.eigenvalues.item(), 4.0, rtol=1e-9, atol=0)


def test_vector_and_value_belong_together():
    # PyHessian returns a vector that is one step ahead: its Rayleigh quotient is another one.
    operator = planted.operator(planted.outliers())
    result = power_iteration(operator, 1, tol=1e-1)
    v = result.eigenvectors[:, 0]
    torch.testing.assert_close(v @ operator.matvec(v), result.eigenvalues[0], rtol=100 * EPS, atol=0)


def test_two_of_one_magnitude_do_not_converge():
    result = power_iteration(diagonal(10.0, -10.0, 1.0, 0.5), 1, "LM", max_matvecs=100)
    assert not result.converged
    assert result.matvecs == 100
    # The quotient lies between -10 and 10, and its residual says how far from them.
    v = result.eigenvalues.item()
    torch.testing.assert_close(result.residuals.item() * abs(v), (100 - v * v) ** 0.5, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("which", "value"), [("LA", 10.0), ("SA", -10.0)])
def test_one_end_of_two_of_one_magnitude(which, value):
    result = power_iteration(diagonal(10.0, -10.0, 1.0, 0.5), 1, which)
    assert result.converged
    torch.testing.assert_close(result.eigenvalues.item(), value, rtol=1e-6, atol=0)


def test_deflated_vectors_are_left_out():
    values = SPECTRA["separated"]
    out = planted.rotation(10)[:, :2]
    result = power_iteration(planted.operator(values), 2, deflate=out, tol=1e-8)
    torch.testing.assert_close(result.eigenvalues, torch.tensor(values[2:4], dtype=torch.float64), rtol=1e-8, atol=0)
    assert (out.T @ result.eigenvectors).abs().max() <= 100 * EPS
    assert result.converged.all()


def test_deflated_vectors_need_not_be_eigenvectors():
    dense = planted.matrix(SPECTRA["indefinite"])
    out = planted.rotation(10, seed=4)[:, :2]
    between = torch.eye(10, dtype=torch.float64) - out @ out.T
    result = power_iteration(planted.DenseOperator(dense), 2, "LA", deflate=out, tol=1e-6)
    projected = between @ dense @ between
    torch.testing.assert_close(result.eigenvalues, torch.linalg.eigvalsh(projected).flip(0)[:2], rtol=1e-6, atol=0)
    torch.testing.assert_close(result.residuals, planted.true_residuals(projected, result), rtol=0, atol=1000 * EPS)


def test_a_right_start_costs_one_product_for_each_pair():
    values = SPECTRA["separated"]
    result = power_iteration(planted.operator(values), 3, start=planted.rotation(10)[:, :3])
    assert result.matvecs == 3
    torch.testing.assert_close(result.eigenvalues, torch.tensor(values[:3], dtype=torch.float64), rtol=1e-10, atol=0)


def test_a_start_of_zeros_or_of_what_is_found_is_replaced():
    values = SPECTRA["separated"]
    first = planted.rotation(10)[:, :1]
    result = power_iteration(planted.operator(values), 3, start=torch.cat([first, first, 0 * first], 1), tol=1e-8)
    torch.testing.assert_close(result.eigenvalues, torch.tensor(values[:3], dtype=torch.float64), rtol=1e-8, atol=0)


@pytest.mark.parametrize("budget", [3, 5, 20])
def test_an_exhausted_budget_gives_what_there_is(budget):
    dense = planted.matrix(SPECTRA["cluster"])
    result = power_iteration(planted.DenseOperator(dense), 3, tol=1e-9, max_matvecs=budget)
    assert result.matvecs == budget
    assert not result.converged.all()
    torch.testing.assert_close(result.residuals, planted.true_residuals(dense, result), rtol=1e-9, atol=100 * EPS)


def test_float32_reaches_its_tolerance():
    result = power_iteration(planted.operator(planted.outliers(), torch.float32), 2, "LA", tol=1e-4)
    assert result.converged.all()
    assert result.eigenvectors.dtype == torch.float32
    torch.testing.assert_close(result.eigenvalues, planted.outliers()[:2], rtol=1e-4, atol=0)
