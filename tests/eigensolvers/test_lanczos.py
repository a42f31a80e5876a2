"""Lanczos against planted spectra: the pairs that were asked for, residuals that are true, and few products."""

import planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import EPS, SPECTRA

from gradgrad.eigensolvers import lanczos

WHICH = ["LA", "SA", "LM", "BE"]


def check(dense, result, k, dtype=torch.float64):
    """What holds of any result, converged or not."""
    eps = torch.finfo(dtype).eps
    v = result.eigenvectors
    assert v.shape == (len(dense), k)
    assert v.dtype == dtype
    assert result.eigenvalues.dtype == torch.float64
    assert (result.eigenvalues.diff() <= 0).all()
    # Orthogonalized twice, then rotated at each restart: a few ulps for each.
    torch.testing.assert_close(v.T @ v, torch.eye(k, dtype=dtype), rtol=0, atol=(100 + result.matvecs) * eps)
    # Residuals come from coefficients that are each rounded at 1 ulp of the norm of H, relative to an eigenvalue of that size
    # or to sqrt(eps) of the norm.
    norm = torch.linalg.eigvalsh(dense).abs().max()
    against = result.eigenvalues.abs().clamp_min(eps**0.5 * norm)
    slack = 100 * eps * norm / against if norm > 0 else torch.zeros(k, dtype=torch.float64)
    assert ((result.residuals - planted.true_residuals(dense, result)).abs() <= slack).all()


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("k", [1, 3, 10])
def test_finds_the_planted_pairs(name, which, k):
    values = SPECTRA[name]
    dense = planted.matrix(values)
    # A block as wide as the largest multiplicity sees every copy.
    result = lanczos(planted.operator(values), k, which, tol=1e-6, block_size=3)
    check(dense, result, k)
    assert result.converged.all()
    norm = max(abs(value) for value in values)
    expected = planted.wanted(values, k, which)
    if name == "one" or (name == "opposite" and which == "LM"):  # which of equal magnitudes come first is not defined
        result_values, expected = result.eigenvalues.abs().sort().values, expected.abs().sort().values
    else:
        result_values = result.eigenvalues
    # An eigenvalue's error is at most its residual: 1e-6 of itself, or of sqrt(eps) times the norm.
    torch.testing.assert_close(result_values, expected, rtol=1e-6, atol=1e-6 * EPS**0.5 * norm + 100 * EPS * norm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("which", WHICH)
def test_residuals_are_true_after_many_restarts(which, dtype):
    values = planted.crowded()
    operator = planted.operator(values, dtype)
    result = lanczos(operator, 2, which, tol=1e-4, basis_size=8)
    assert result.matvecs > 40  # ten restarts and more
    check(operator.matrix.double(), result, 2, dtype)
    assert result.converged.all()
    distance = (result.eigenvalues[:, None] - values).abs().min(1).values
    assert (distance <= 1e-4).all()


def test_top_pairs_are_the_top_ones_across_restarts():
    values = planted.outliers()
    result = lanczos(planted.operator(values), 5, tol=1e-8, basis_size=9)
    torch.testing.assert_close(result.eigenvalues, values[:5], rtol=1e-8, atol=0)


def test_few_products():
    # Outliers of a bulk at a tenth: measured 10 and 14; power iteration needs hundreds for the second.
    operator = planted.operator(planted.outliers())
    assert lanczos(operator, 1).matvecs <= 10
    assert lanczos(operator, 5).matvecs <= 16


def test_a_right_start_costs_one_product():
    values = planted.outliers()
    exact = planted.rotation(200)[:, 0]
    index = (planted.matrix(values) @ exact).div(exact).median()  # the eigenvalue that belongs to the first column
    result = lanczos(planted.operator(values), start=exact)
    assert result.matvecs == 1
    torch.testing.assert_close(result.eigenvalues[0], index, rtol=1e-10, atol=0)


def test_a_start_of_several_vectors_is_cheaper_than_none():
    values = planted.outliers()
    operator = planted.operator(values)
    old = lanczos(operator, 5, tol=1e-4).eigenvectors
    moved = planted.matrix(values) + 0.01 * planted.matrix(planted.outliers(seed=2), seed=3)
    cold = lanczos(planted.DenseOperator(moved), 5)
    warm = lanczos(planted.DenseOperator(moved), 5, start=old)
    block = lanczos(planted.DenseOperator(moved), 5, start=old, block_size=5)
    torch.testing.assert_close(warm.eigenvalues, cold.eigenvalues, rtol=1e-5, atol=0)
    torch.testing.assert_close(block.eigenvalues, cold.eigenvalues, rtol=1e-5, atol=0)
    assert warm.matvecs <= cold.matvecs - 2
    assert lanczos(operator, 5, start=old, block_size=5).matvecs == 5  # unchanged: one product for each


def test_start_vectors_may_be_more_fewer_or_dependent():
    values = SPECTRA["separated"]
    dense = planted.matrix(values)
    columns = torch.randn(10, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for start in (columns, columns.float(), columns[:, :1].expand(10, 4), torch.cat([columns, torch.zeros(10, 1)], 1)):
        for block in (1, 3):
            result = lanczos(planted.operator(values), 3, start=start, block_size=block, tol=1e-8)
            check(dense, result, 3)
            torch.testing.assert_close(result.eigenvalues, torch.tensor(values[:3], dtype=torch.float64), rtol=1e-8, atol=0)


def test_blocks_go_through_the_operator_together():
    operator = planted.Recorded(planted.matrix(planted.outliers()))
    result = lanczos(operator, 3, block_size=4, max_matvecs=18, tol=1e-14)
    assert operator.blocks == [4, 4, 4, 4, 2]
    assert result.matvecs == 18


@pytest.mark.parametrize("budget", [3, 4, 7])
def test_an_exhausted_budget_gives_what_there_is(budget):
    dense = planted.matrix(planted.outliers())
    result = lanczos(planted.operator(planted.outliers()), 3, tol=1e-6, max_matvecs=budget)
    check(dense, result, 3)
    assert result.matvecs == budget
    assert not result.converged.all()
    assert (result.converged == (result.residuals <= 1e-6)).all()


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("which", WHICH)
def test_the_smallest_operators(size, which):
    values = [3.0, -2.0][:size]
    result = lanczos(planted.operator(values), size, which, block_size=size)
    torch.testing.assert_close(result.eigenvalues, torch.tensor(values, dtype=torch.float64), rtol=10 * EPS, atol=10 * EPS)
    assert result.converged.all()
    assert result.matvecs == size


def test_goes_on_from_an_invariant_space():
    # The start is an eigenvector, so nothing of the product is left over.
    operator = planted.DenseOperator(torch.diag(torch.tensor([5.0, 4.0, 3.0, 2.0], dtype=torch.float64)))
    result = lanczos(operator, 2, start=torch.eye(4, dtype=torch.float64)[:, 2], tol=1e-10)
    assert result.converged.all()
    torch.testing.assert_close(result.eigenvalues, torch.tensor([5.0, 4.0], dtype=torch.float64), rtol=1e-9, atol=0)


def test_both_ends_come_from_one_space():
    values = planted.outliers()
    values[-1] = -8.0
    operator = planted.operator(values)
    both = lanczos(operator, 2, "BE").matvecs
    assert both < lanczos(operator, 1, "LA").matvecs + lanczos(operator, 1, "SA").matvecs


def test_a_seed_gives_the_same_numbers_and_leaves_the_global_generator():
    operator = planted.operator(planted.outliers())
    before = torch.get_rng_state()
    first, second, third = (lanczos(operator, 2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.eigenvectors, second.eigenvectors)
    assert not torch.equal(first.eigenvectors, third.eigenvectors)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_start_is_left_alone():
    start = torch.ones(200, 2, dtype=torch.float64)
    lanczos(planted.operator(planted.outliers()), 2, start=start, block_size=2)
    assert torch.equal(start, torch.ones(200, 2, dtype=torch.float64))


def test_an_interruption_comes_through():
    def stop(product):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        lanczos(planted.Broken(planted.matrix(planted.outliers()), 3, stop))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(-4, 4), min_size=2, max_size=12),
    st.sampled_from(WHICH),
    st.integers(1, 3),
    st.integers(0, 3),
    st.data(),
)
def test_any_spectrum_with_any_setting(values, which, block, extra, data):
    k = data.draw(st.integers(1, len(values)))
    block = min(block, len(values))
    dense = planted.matrix([float(value) for value in values])
    size = k + 2 * block + extra
    result = lanczos(planted.DenseOperator(dense), k, which, 1e-6, 3000, block_size=block, basis_size=size)
    check(dense, result, k)
    assert result.converged.all()
    distance = (result.eigenvalues[:, None] - torch.tensor(values)).abs().min(1).values
    assert (distance <= 1e-5).all()


def test_a_copy_may_be_missing_from_converged_pairs():
    values = planted.outliers()
    values[1] = values[0]
    one, two = (lanczos(planted.operator(values), 2, block_size=block) for block in (1, 2))
    assert one.converged.all()
    torch.testing.assert_close(one.eigenvalues, values[[0, 2]], rtol=1e-5, atol=0)  # as EigenResult.converged says
    torch.testing.assert_close(two.eigenvalues, values[:2], rtol=1e-5, atol=0)
