"""Each thing that cannot be asked is answered by one sentence."""

import planted
import pytest
import torch
from planted import SPECTRA

from gradgrad.eigensolvers import diagonal, lanczos, power_iteration, spectral_density, trace
from gradgrad.errors import UsageError

OPERATOR = planted.operator(SPECTRA["separated"])
DENSE = OPERATOR.matrix
NAN = torch.full((10,), torch.nan)


@pytest.mark.parametrize("solve", [lanczos, power_iteration])
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"k": 0}, "got k=0; expected 1 to 10, the operator's size"),
        ({"k": 11}, "got k=11; expected 1 to 10, the operator's size"),
        ({"k": 1.5}, "got k=1.5; expected a whole number"),
        ({"k": "1"}, "got k='1'; expected a whole number"),
        ({"max_matvecs": 2.5}, "got max_matvecs=2.5; expected a whole number"),
        ({"seed": None}, "got seed=None; expected a whole number"),
        ({"tol": "a"}, "got tol='a'; expected a positive relative residual, such as 1e-3"),
        ({"which": "largest"}, "got which='largest'; expected one of L"),
        ({"tol": 0.0}, "got tol=0.0; expected a positive relative residual, such as 1e-3"),
        ({"tol": float("nan")}, "got tol=nan; expected a positive"),
        ({"k": 3, "max_matvecs": 2}, "got max_matvecs=2; expected 3 at least: every pair takes a product"),
        ({"start": torch.ones(9)}, r"got start of shape \(9,\); expected \(10,\) or \(10, K\)"),
        ({"start": torch.ones(10, 2, 2)}, r"got start of shape \(10, 2, 2\); expected"),
        ({"start": [1.0]}, "got start of shape list; expected"),
        ({"start": torch.ones(10, dtype=torch.complex128)}, "got start in torch.complex128; expected real numbers"),
        ({"start": NAN}, "got start with NaN or infinity; expected finite numbers"),
    ],
)
def test_what_both_eigensolvers_refuse(solve, arguments, sentence):
    with pytest.raises(UsageError, match=f"{solve.__name__} {sentence}"):
        solve(OPERATOR, **arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"block_size": 0}, "lanczos got block_size=0; expected 1 to 10, the operator's size"),
        ({"block_size": 11}, "lanczos got block_size=11; expected 1 to 10"),
        ({"block_size": 1.5}, "lanczos got block_size=1.5; expected a whole number"),
        ({"basis_size": "20"}, "lanczos got basis_size='20'; expected a whole number"),
        ({"k": 3, "basis_size": 4}, "lanczos got basis_size=4; expected 5 at least: k=3 and two blocks of 1"),
        ({"start": torch.zeros(10)}, "lanczos got a start of zeros; expected a vector"),
    ],
)
def test_what_lanczos_refuses(arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        lanczos(OPERATOR, **arguments)


def test_what_power_iteration_refuses():
    with pytest.raises(UsageError, match="power_iteration got k=9 and 2 vectors to deflate; expected 10 in all at most"):
        power_iteration(OPERATOR, 9, deflate=torch.eye(10, dtype=torch.float64)[:, :2])
    with pytest.raises(UsageError, match="power_iteration got vectors to deflate that are not orthonormal"):
        power_iteration(OPERATOR, deflate=torch.ones(10, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"probes": 0}, "spectral_density got probes=0; expected 1 or more"),
        ({"steps": 0}, "spectral_density got steps=0; expected 1 or more"),
        ({"block": 0}, "spectral_density got block=0; expected 1 or more"),
        ({"steps": 2.5}, "spectral_density got steps=2.5; expected a whole number"),
        ({"block": "1"}, "spectral_density got block='1'; expected a whole number"),
        ({"seed": None}, "spectral_density got seed=None; expected a whole number"),
        ({"width": "a"}, "spectral_density got width='a'; expected a positive number"),
        ({"width": -1.0}, "spectral_density got width=-1.0; expected a positive number"),
        ({"width": 1e-6}, "spectral_density got grid_points=1024, too few for Gaussians of width 1e-06"),
        ({"grid_points": 1}, "spectral_density got grid_points=1, too few"),
    ],
)
def test_what_spectral_density_refuses(arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        spectral_density(OPERATOR, **arguments)


@pytest.mark.parametrize("estimate", [trace, diagonal])
def test_what_estimators_refuse(estimate):
    with pytest.raises(UsageError, match=f"{estimate.__name__} got method='exact'; expected one of"):
        estimate(OPERATOR, "exact")
    for name, value in (("matvecs", 10.5), ("seed", None)):
        with pytest.raises(UsageError, match=f"{estimate.__name__} got {name}={value}; expected a whole number"):
            estimate(OPERATOR, **{name: value})
    method, least = {"trace": ("hutch++", 3), "diagonal": ("xdiag", 4)}[estimate.__name__]
    with pytest.raises(
        UsageError, match=rf"{estimate.__name__} got matvecs=2; expected {least} at least for {method.replace('+', '.')}"
    ):
        estimate(OPERATOR, method, 2)


@pytest.mark.parametrize("solve", [lanczos, power_iteration, spectral_density, trace, diagonal])
def test_what_no_solver_takes(solve):
    with pytest.raises(UsageError, match=f"{solve.__name__} got a Tensor; expected a LinearOperator"):
        solve(DENSE)
    with pytest.raises(UsageError, match=f"{solve.__name__} got an operator in torch.bfloat16; expected float32 or float64"):
        solve(planted.DenseOperator(DENSE.bfloat16()))


@pytest.mark.parametrize("solve", [lanczos, power_iteration, spectral_density, trace, diagonal])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_products_that_are_not_finite(solve, wrong):
    operator = planted.Broken(planted.matrix(planted.outliers()), 1, lambda product: product * wrong)
    with pytest.raises(UsageError, match=f"{solve.__name__} got NaN or infinity from product"):
        solve(operator)


def test_a_late_nan_is_seen_too():
    def wrong(product):
        product[7] = torch.nan
        return product

    with pytest.raises(UsageError, match="lanczos got NaN or infinity from product 4 of the operator"):
        lanczos(planted.Broken(planted.matrix(planted.outliers()), 4, wrong))


def test_an_operator_that_is_not_symmetric():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(100, 100, generator=generator, dtype=torch.float64)
    with pytest.raises(
        UsageError, match=r"lanczos got an operator that is not symmetric: u'Hv and v'Hu differ by \d+% of its norm"
    ):
        lanczos(planted.DenseOperator(matrix))


def test_a_list_is_no_matrix():
    with pytest.raises(UsageError, match=r"DenseOperator got a list; expected a tensor of shape \(P, P\)"):
        planted.DenseOperator([1])


def test_whole_numbers_of_other_libraries_are_whole():
    assert lanczos(OPERATOR, torch.tensor(2), max_matvecs=torch.tensor(30)).converged.all()
