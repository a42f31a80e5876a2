"""An operator in other units has the same pairs, in these units, also where its squares are no numbers of its dtype."""

import planted
import pytest
import torch
from planted import EPS

from gradgrad.eigensolvers import diagonal, lanczos, power_iteration, spectral_density, trace

SCALES = [2.0**-100, 2.0**-66, 2.0**30, 2.0**100]  # powers of two: products round as they do at 1
LARGE = torch.tensor([1.0] + [0.01] * 30 + [-1e-5], dtype=torch.float64)


def scaled(values, scale):
    return planted.DenseOperator(planted.matrix(values).float() * scale)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("solve", [lanczos, power_iteration])
@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_pairs_in_other_units(solve, which, scale):
    values = planted.outliers(60)
    one, other = (solve(scaled(values, unit), 2, which) for unit in (1.0, scale))
    torch.testing.assert_close(other.eigenvalues, one.eigenvalues * scale, rtol=100 * EPS, atol=0)
    torch.testing.assert_close(other.residuals, one.residuals, rtol=1e-6, atol=0)
    assert torch.equal(other.eigenvectors, one.eigenvectors)
    assert (other.matvecs, other.converged.tolist()) == (one.matvecs, one.converged.tolist())


@pytest.mark.parametrize("scale", SCALES)
def test_estimates_in_other_units(scale):
    values = planted.outliers(60)
    one, other = scaled(values, 1.0), scaled(values, scale)
    for method in ("hutchinson", "hutch++", "xtrace"):
        first, second = trace(one, method), trace(other, method)
        assert second.value == pytest.approx(first.value * scale, rel=100 * EPS)
        assert second.standard_error == pytest.approx(first.standard_error * scale, rel=100 * EPS)
    for method in ("bekas", "xdiag"):
        torch.testing.assert_close(diagonal(other, method).value, diagonal(one, method).value * scale, rtol=1e-6, atol=0)
    first, second = spectral_density(one, 2, 10), spectral_density(other, 2, 10)
    torch.testing.assert_close(second.nodes, first.nodes * scale, rtol=0, atol=1000 * EPS * 9 * scale)
    torch.testing.assert_close(second.density, first.density / scale, rtol=1e-9, atol=1e-9 * float(first.density.max()) / scale)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e19, 1e30])
@pytest.mark.parametrize("solve", [lanczos, power_iteration])
def test_planted_pairs_in_other_units(solve, scale):
    result = solve(scaled(LARGE, scale), 2, "LA")
    assert result.converged.all()
    # Float32 rounds the matrix: 6e-8 of its norm, 1e-5 of the second eigenvalue; the rest is the tolerance.
    torch.testing.assert_close(result.eigenvalues / scale, LARGE[:2], rtol=1e-3, atol=1e-6)
    zero = solve(scaled([4.0, 3.0, 2.0, 1.0, 0.0], scale), 1, "SA")
    # A residual of 1e-3 against sqrt(eps) of the norm of 4.
    assert abs(zero.eigenvalues[0] / scale) <= 1e-3 * torch.finfo(torch.float32).eps ** 0.5 * 4 + 1e-6


def test_products_of_zero_have_no_unit():
    values = torch.diag(torch.tensor([1e-20, 5e-21, 0.0, 0.0, 0.0]))
    result = lanczos(planted.DenseOperator(values), 2, start=torch.eye(5)[:, 4], tol=1e-6)
    torch.testing.assert_close(result.eigenvalues / 1e-20, torch.tensor([1.0, 0.5], dtype=torch.float64), rtol=1e-6, atol=0)
