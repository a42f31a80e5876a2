"""Trace and diagonal: unbiased, exact where the rank is low, and their standard errors are true."""

import planted
import pytest
import torch
from planted import EPS

from gradgrad.eigensolvers import counted as module
from gradgrad.eigensolvers import diagonal, trace
from gradgrad.eigensolvers.probes import gaussian, generator, rademacher

METHODS = ["hutchinson", "hutch++", "xtrace"]
DIAGONALS = ["bekas", "xdiag"]


def low_rank(dtype=torch.float64):
    values = torch.zeros(80, dtype=torch.float64)
    values[:8] = torch.tensor([8.0, 5.0, 3.0, 2.0, 1.0, -1.0, -2.0, -4.0])
    return planted.operator(values, dtype)


@pytest.mark.parametrize("method", METHODS)
def test_the_estimate_is_unbiased_and_knows_its_error(method):
    dense = planted.matrix(planted.outliers(60))
    runs = [trace(planted.DenseOperator(dense), method, 30, seed) for seed in range(200)]
    errors = torch.tensor([run.value for run in runs], dtype=torch.float64) - dense.trace()
    spread = errors.square().mean().sqrt()
    assert errors.mean().abs() <= 4 * spread / 200**0.5
    # The stated variance is right in the mean. 200 runs know it to about a fifth (heavy tails counted).
    stated = torch.tensor([run.standard_error for run in runs]).square().mean().sqrt()
    assert 0.6 <= stated / spread <= 1.5


@pytest.mark.parametrize(
    ("values", "matvecs"),
    [(0.9 ** torch.arange(200.0), 30), (1 / torch.arange(1.0, 201), 16), (torch.tensor([1.0] * 20 + [1e-3] * 180), 30)],
)
def test_xtrace_knows_its_error_where_its_samples_share_their_sketch(values, matvecs):
    # As if independent, the samples state 0.66, 0.75 and 0.54 of the error; corrected, 0.95, 1.11 and 0.79 over 200 seeds.
    operator = planted.operator(values)
    runs = [trace(operator, "xtrace", matvecs, seed) for seed in range(100)]
    spread = (torch.tensor([run.value for run in runs]) - values.sum()).square().mean().sqrt()
    stated = torch.tensor([run.standard_error for run in runs]).square().mean().sqrt()
    assert 0.7 <= stated / spread <= 1.4


def test_hutchinson_has_the_variance_of_its_source():
    dense = planted.matrix(planted.outliers(60))
    errors = torch.tensor([trace(planted.DenseOperator(dense), "hutchinson", 10, s).value for s in range(400)]) - dense.trace()
    expected = 2 * (dense.square().sum() - dense.diagonal().square().sum()) / 10  # Hutchinson 1990
    # The relative standard error of a variance from 400 numbers: sqrt(2 / 400) = 7 %; four of them.
    torch.testing.assert_close(errors.double().square().mean(), expected, rtol=0.28, atol=0)


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_low_rank_is_exact(method, dtype):
    operator = low_rank(dtype)
    result = trace(operator, method, 30)
    tolerance = 1e4 * torch.finfo(dtype).eps  # some hundred sums of numbers up to 8
    torch.testing.assert_close(result.value, operator.matrix.double().trace().item(), rtol=0, atol=tolerance)
    assert result.standard_error <= tolerance
    assert result.matvecs <= 30


def left_out_one_by_one(dense, omega):
    """For each probe: Q Q' H of the sketch without it, that Q, and the probe."""
    for i, probe in enumerate(omega):
        others = torch.cat([omega[:i], omega[i + 1 :]])
        q = torch.linalg.qr(dense @ others.T).Q
        yield q @ q.T @ dense, q, probe


def test_xdiag_is_its_definition():
    dense = planted.matrix(planted.outliers(60))
    omega = rademacher(7, dense[0], generator(3))
    parts = []
    for inside, q, probe in left_out_one_by_one(dense, omega):
        seen = dense @ probe
        parts.append(inside.diagonal() + probe * (seen - q @ (q.T @ seen)))
    result = diagonal(planted.DenseOperator(dense), "xdiag", 14, seed=3)
    torch.testing.assert_close(result.value, torch.stack(parts).mean(0), rtol=0, atol=1e5 * EPS)


def test_xtrace_is_its_definition():
    dense = planted.matrix(planted.outliers(60))
    omega = gaussian(7, dense[0], generator(3))
    parts = []
    for inside, q, probe in left_out_one_by_one(dense, omega):
        rest = probe - q @ (q.T @ probe)
        rest *= (60 - 6) ** 0.5 / rest.norm()  # on the sphere of the complement's dimension
        parts.append(inside.trace() + rest @ dense @ rest)
    result = trace(planted.DenseOperator(dense), "xtrace", 14, seed=3)
    samples = torch.stack(parts)
    torch.testing.assert_close(result.value, samples.mean().item(), rtol=0, atol=1e5 * EPS)
    torch.testing.assert_close(result.standard_error, (samples.std() * (1 / 7 + 1 / 6) ** 0.5).item(), rtol=0, atol=1e5 * EPS)


def test_xtrace_is_exact_for_a_multiple_of_the_identity():
    # What a probe on the sphere sees outside of the sketch is scaled by its length there.
    result = trace(planted.operator([3.0] * 50), "xtrace", 20)
    torch.testing.assert_close(result.value, 150.0, rtol=1e4 * EPS, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_low_rank_diagonal_is_exact(dtype):
    operator = low_rank(dtype)
    result = diagonal(operator, "xdiag", 30)
    torch.testing.assert_close(result.value, operator.matrix.diagonal(), rtol=0, atol=1e4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 3, 20])
def test_as_many_products_as_rows_are_exact(method, size):
    dense = planted.matrix(torch.linspace(-1, 3, size))
    result = trace(planted.DenseOperator(dense), method, 20)
    torch.testing.assert_close(result.value, dense.trace().item(), rtol=0, atol=100 * EPS)
    assert (result.matvecs, result.standard_error) == (size, 0.0)
    torch.testing.assert_close(diagonal(planted.DenseOperator(dense), matvecs=20).value, dense.diagonal(), rtol=0, atol=0)


@pytest.mark.parametrize("estimate", [*METHODS, *DIAGONALS])
def test_the_zero_operator(estimate):
    zero = planted.operator([0.0] * 50)
    if estimate in METHODS:
        assert trace(zero, estimate, 20).value == 0
    else:
        assert (diagonal(zero, estimate, 20).value == 0).all()


def test_one_probe_has_no_standard_error():
    assert trace(planted.operator(planted.outliers()), "hutchinson", 1).standard_error is None


@pytest.mark.parametrize("method", DIAGONALS)
def test_the_diagonal_is_unbiased(method):
    dense = planted.matrix(planted.outliers(60).abs() + 1)  # positive, or the parts of a bias would cancel
    runs = torch.stack([diagonal(planted.DenseOperator(dense), method, 20, seed).value for seed in range(200)])
    error = runs.mean(0) - dense.diagonal()
    assert (error.abs() <= 5 * runs.std(0) / 200**0.5).all()  # five standard errors for each of 60 entries
    assert error.sum().abs() <= 5 * runs.sum(1).std() / 200**0.5


def test_bekas_has_the_variance_of_its_source():
    dense = planted.matrix(planted.outliers(60))
    runs = torch.stack([diagonal(planted.DenseOperator(dense), "bekas", 10, seed).value for seed in range(400)])
    expected = (dense.square().sum(1) - dense.diagonal().square()) / 10
    torch.testing.assert_close((runs - dense.diagonal()).square().mean(0).sum(), expected.sum(), rtol=0.28, atol=0)


def test_sketches_beat_plain_probes_where_the_spectrum_decays():
    dense = planted.matrix(planted.outliers())
    rms = {}
    for method in METHODS:
        errors = [trace(planted.DenseOperator(dense), method, 60, seed).value - dense.trace() for seed in range(20)]
        rms[method] = torch.stack(errors).square().mean().sqrt()
    # Without the 6 outliers a tenth of the Frobenius norm is left; three (two) times fewer probes for it.
    assert rms["hutch++"] < 0.4 * rms["hutchinson"]
    assert rms["xtrace"] < 0.4 * rms["hutchinson"]


def test_probes_in_pieces_are_the_same(monkeypatch):
    operator = planted.operator(planted.outliers())
    whole, diagonals = trace(operator, "hutchinson", 7), diagonal(operator, "bekas", 7)
    monkeypatch.setattr(module, "MEMORY", 2 * 200 * 8 * 3)
    recorded = planted.Recorded(operator.matrix)
    torch.testing.assert_close(trace(recorded, "hutchinson", 7).value, whole.value, rtol=1e-12, atol=0)
    assert recorded.blocks == [3, 3, 1]
    torch.testing.assert_close(diagonal(recorded, "bekas", 7).value, diagonals.value, rtol=0, atol=1e-12)
