"""The density: mass one, exact moments of what the probes see, and the planted spectrum in the limit."""

import math

import planted
import pytest
import torch
from planted import EPS, SPECTRA

from gradgrad.eigensolvers import spectral_density
from gradgrad.eigensolvers.probes import generator, rademacher


@pytest.mark.parametrize("name", SPECTRA)
def test_mass_is_one_and_weights_are_a_distribution(name):
    result = spectral_density(planted.operator(SPECTRA[name]), probes=4)
    # Six widths outside leave 2e-9; the trapezoid rule is exact to exp(-2 pi^2 (width / spacing)^2) for a Gaussian.
    torch.testing.assert_close(torch.trapezoid(result.density, result.grid).item(), 1.0, rtol=0, atol=1e-7)
    assert (result.weights >= 0).all()
    torch.testing.assert_close(result.weights.sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=100 * EPS)
    norm = max(abs(value) for value in SPECTRA[name])
    assert result.nodes.abs().max() <= norm * (1 + 100 * EPS)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_moments_are_those_of_the_probes(steps):
    dense = planted.matrix(planted.outliers())
    result = spectral_density(planted.DenseOperator(dense), probes=3, steps=steps, seed=5)
    probes = rademacher(3, dense[0], generator(5)) / len(dense) ** 0.5
    power = probes
    for degree in range(2 * steps):
        expected = (probes * power).sum(1)
        # Gauss quadrature with m nodes is exact up to degree 2 m - 1.
        torch.testing.assert_close((result.weights * result.nodes**degree).sum(1), expected, rtol=0, atol=1e-12 * 9.0**degree)
        power = power @ dense


def test_trace_and_square_norm_within_the_probes_error():
    values = planted.outliers()
    dense = planted.matrix(values)
    probes = 40
    result = spectral_density(planted.DenseOperator(dense), probes, steps=10)
    for degree in (1, 2):
        power = torch.linalg.matrix_power(dense, degree)
        estimate = (result.weights * result.nodes**degree).sum(1).mean() * len(dense)
        # A sign probe's variance: twice the squares beside the diagonal [Hutchinson 1990]; four standard errors.
        deviation = math.sqrt(2 * (power.square().sum() - power.diagonal().square().sum()) / probes)
        assert abs(estimate - power.trace()) <= 4 * deviation


def test_all_steps_give_the_planted_spectrum():
    # Probes average to the mean over eigenvalues; with signs in the eigenvectors' own coordinates each does alone.
    values = torch.tensor(SPECTRA["separated"], dtype=torch.float64)
    result = spectral_density(planted.DenseOperator(torch.diag(values)), probes=2, width=0.05, grid_points=4000)
    torch.testing.assert_close(result.nodes[0].flip(0), values, rtol=0, atol=1e-12)
    gaussians = torch.exp(-((result.grid[:, None] - values) / 0.05).square() / 2) / (0.05 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(result.density, gaussians.mean(1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("block", [1, 2, 5])
def test_probes_side_by_side_are_the_probes_alone(block):
    operator = planted.Recorded(planted.matrix(planted.outliers()))
    result = spectral_density(operator, probes=5, steps=7, block=block)
    whole = spectral_density(operator, probes=5, steps=7)
    torch.testing.assert_close(result.nodes, whole.nodes, rtol=0, atol=1e-11)
    torch.testing.assert_close(result.weights, whole.weights, rtol=0, atol=1e-11)
    assert operator.blocks[:7] == [block] * 7
    assert result.matvecs == 35


@pytest.mark.parametrize(("name", "distinct"), [("rank deficient", 4), ("one", 1), ("zero", 1)])
def test_stops_where_the_space_is_exhausted(name, distinct):
    result = spectral_density(planted.operator(SPECTRA[name]), probes=3)
    assert result.matvecs <= 3 * (distinct + 1)
    moment = (result.weights * result.nodes).sum(1)
    probes = rademacher(3, torch.empty(10, dtype=torch.float64), generator(0)) / 10**0.5
    expected = (probes * (probes @ planted.matrix(SPECTRA[name]))).sum(1)
    torch.testing.assert_close(moment, expected, rtol=0, atol=1000 * EPS * 5)


def test_float32_sees_the_same_density():
    values = planted.outliers()
    single, double = (spectral_density(planted.operator(values, dtype), 3, 20) for dtype in (torch.float32, torch.float64))
    for degree in (1, 2):
        moments = [(result.weights * result.nodes**degree).sum(1) for result in (single, double)]
        torch.testing.assert_close(moments[0], moments[1], rtol=0, atol=1000 * torch.finfo(torch.float32).eps * 9.0**degree)
