"""Our products and eigenvalues equal curvlinops', in float64 and for unequal batches; and where other peers are wrong."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from spectrum_peers import curvlinops
from torch import nn

from gradgrad.derivatives import DenseOperator, GGNOperator, HessianOperator
from gradgrad.eigensolvers import lanczos
from gradgrad.networks import MLP

FEATURES, CLASSES = 8, 3


@pytest.fixture
def convolutions(float64):
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 4, 2)), nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(6, CLASSES),),
    )


@pytest.fixture
def perceptron(float64):
    return MLP(FEATURES, CLASSES, [7, 5])


@pytest.fixture(params=["perceptron", "convolutions"])
def net(request):
    torch.manual_seed(0)
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["classes", "numbers"])
def problem(net, request):
    """A net, a criterion, and three batches of 9, 4 and 1 samples."""
    if request.param == "classes":
        criterion, targets = nn.CrossEntropyLoss(), lambda n: torch.randint(CLASSES, (n,))
    else:
        criterion, targets = nn.MSELoss(), lambda n: torch.randn(n, CLASSES)
    return net, criterion, [(torch.randn(n, FEATURES), targets(n)) for n in (9, 4, 1)]


def pair(problem, matrix):
    """The same matrix by us and by curvlinops."""
    net, criterion, batches = problem
    params = dict(net.named_parameters())
    if matrix == "hessian":
        ours = HessianOperator(lambda b: criterion(net(b[0]), b[1]), params, batches)
    else:
        ours = GGNOperator(lambda b: net(b[0]), lambda out, b: criterion(out, b[1]), params, batches)
    theirs = {"hessian": "HessianLinearOperator", "ggn": "GGNLinearOperator"}[matrix]
    return ours, getattr(curvlinops(), theirs)(net, criterion, list(params.values()), batches)


# Of curvlinops' products in float64, whose sums are made in another order: a few hundred roundings of 1e-16.
@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_products_are_those_of_curvlinops(problem, matrix):
    ours, theirs = pair(problem, matrix)
    block = torch.randn(ours.size, 4)
    expected = theirs @ block
    torch.testing.assert_close(ours @ block, expected, rtol=0, atol=1e-10 * expected.abs().max().item())
    torch.testing.assert_close(ours @ block[:, 0], expected[:, 0], rtol=0, atol=1e-10 * expected.abs().max().item())


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_eigenvalues_are_those_of_curvlinops(problem, matrix):
    ours, theirs = pair(problem, matrix)
    which = "BE" if matrix == "hessian" else "LA"  # the other end of the Gauss-Newton matrix is 0, many times
    found = lanczos(ours, 4, which, tol=1e-7)  # an eigenvalue is off by the square of its residual
    assert found.converged.all()
    expected = eigsh(theirs.to_scipy(), k=4, which=which, tol=1e-10)[0]
    np.testing.assert_allclose(found.eigenvalues.numpy(), np.sort(expected)[::-1], rtol=0, atol=1e-10 * expected.max())


def test_batches_of_unequal_size(perceptron):
    """33 samples in batches of 32: all samples count the same; in hessian-eigenthings all batches do."""
    library = pytest.importorskip("hessian_eigenthings")
    criterion, x, y = nn.CrossEntropyLoss(), torch.randn(33, FEATURES), torch.randint(CLASSES, (33,))
    cut = list(zip(x.split(32), y.split(32), strict=True))

    def ours(batches):
        return HessianOperator(lambda b: criterion(perceptron(b[0]), b[1]), dict(perceptron.named_parameters()), batches)

    vector = torch.randn(ours(cut).size)
    whole, parts = ours([(x, y)]) @ vector, [ours([part]) @ vector for part in cut]
    torch.testing.assert_close(ours(cut) @ vector, whole, rtol=1e-10, atol=1e-13)
    theirs = library.HessianOperator(perceptron, cut, library.supervised_loss(criterion)).matvec(vector)
    torch.testing.assert_close(theirs, (parts[0] + parts[1]) / 2, rtol=1e-10, atol=1e-13)
    assert (theirs - whole).norm() > 0.05 * whole.norm()


def test_momentum_moves_no_eigenvalue(float64):
    """Power iteration with momentum b finds lambda - b in hessian-eigenthings, and calls it converged."""
    library = pytest.importorskip("hessian_eigenthings")
    diagonal = torch.tensor([10.0, 5.0, 1.0, 0.5])
    theirs = library.LambdaOperator(lambda v: diagonal * v, size=4, device=diagonal.device, dtype=diagonal.dtype)
    value, *_, converged = library.power_iteration_one(theirs, momentum=1.0, seed=0)
    assert converged
    assert value == pytest.approx(9, rel=1e-6)
    assert lanczos(DenseOperator(diagonal.diag()), 1, tol=1e-6).eigenvalues.item() == pytest.approx(10, rel=1e-10)
