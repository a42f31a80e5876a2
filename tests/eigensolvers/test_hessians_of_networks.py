"""Curvature of real losses: closed forms and dense autograd, found by products alone."""

import pytest
import torch
from planted import true_residuals
from torch import nn
from torch.func import functional_call

import cases
from gradgrad.derivatives import HessianOperator
from gradgrad.eigensolvers import diagonal, lanczos, power_iteration, spectral_density, trace


def network():
    """The network's operator and its Hessian by dense autograd."""
    net = cases.network()
    batch = cases.batch()
    names, sizes = zip(*[(name, p.numel()) for name, p in net.named_parameters()], strict=True)

    def loss(flat):
        pieces = {n: piece.view_as(p) for n, piece, p in zip(names, flat.split(sizes), net.parameters(), strict=True)}
        return (functional_call(net, pieces, (batch[0],)) - batch[1]).square().mean()

    dense = torch.autograd.functional.hessian(loss, torch.cat([p.detach().flatten() for p in net.parameters()]))
    return HessianOperator(lambda b: (net(b[0]) - b[1]).square().mean(), dict(net.named_parameters()), [batch]), dense


def closed_form(problem):
    module = cases.Problem(problem)
    return HessianOperator(module.loss, dict(module.named_parameters()), [cases.batch()]), problem.hessian()


def features(rows=40, size=6):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 1


def logistic():
    """At weights w: x' diag(p (1 - p)) x / n."""
    x = features()
    w = nn.Parameter(torch.linspace(-0.5, 0.5, 6, dtype=torch.float64))
    y = (torch.arange(40) % 2).double()
    p = torch.sigmoid(x @ w).detach()

    def loss(batch):
        return nn.functional.binary_cross_entropy_with_logits(batch[0] @ w, batch[1])

    return HessianOperator(loss, {"w": w}, [(x, y)]), x.T @ (x * (p * (1 - p))[:, None]) / len(x)


def softmax(classes=4):
    """At zero weights: (I - 11' / C) / C times E[x x'], whose largest eigenvalue comes C - 1 times."""
    x = features()
    w = nn.Parameter(torch.zeros(classes, 6, dtype=torch.float64))
    y = torch.arange(40) % classes

    def loss(batch):
        return nn.functional.cross_entropy(batch[0] @ w.T, batch[1])

    outer = (torch.eye(classes, dtype=torch.float64) - 1 / classes) / classes
    return HessianOperator(loss, {"w": w}, [(x, y)]), torch.kron(outer, x.T @ x / len(x))


PROBLEMS = {
    "network": network,
    "logistic": logistic,
    "softmax": softmax,
    "quadratic": lambda: closed_form(cases.CLOSED_FORMS[0]),
    "one parameter": lambda: closed_form(cases.CLOSED_FORMS[1]),
    "linear regression": lambda: closed_form(cases.CLOSED_FORMS[2]),
}


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]()


def test_both_ends_of_the_spectrum(problem):
    operator, dense = problem
    values = torch.linalg.eigvalsh(dense).flip(0)
    k = min(2, operator.size)
    result = lanczos(operator, k, "BE", tol=1e-6)
    expected = values if operator.size == 1 else values[[0, -1]]
    norm = values.abs().max()
    torch.testing.assert_close(result.eigenvalues, expected, rtol=1e-6, atol=1e-13 * norm.item())
    # Both Hessians are sums of some thousand rounded products; relative to the smallest denominator, sqrt(eps) of the norm.
    torch.testing.assert_close(result.residuals, true_residuals(dense, result), rtol=0, atol=1e-4)
    assert result.converged.all()


def test_power_iteration_agrees(problem):
    operator, dense = problem
    values = torch.linalg.eigvalsh(dense)
    result = power_iteration(operator, 1, "LA", tol=1e-4)
    assert result.converged
    torch.testing.assert_close(result.eigenvalues[0], values[-1], rtol=1e-4, atol=0)


def test_three_ways_to_the_trace(problem):
    operator, dense = problem
    exact, bound = dense.trace().item(), 1e-11 * dense.abs().sum().item()
    for method in ("hutchinson", "hutch++", "xtrace"):
        assert abs(trace(operator, method).value - exact) <= bound  # as many products as rows
    assert (diagonal(operator).value - dense.diagonal()).abs().max() <= bound
    probes = 100
    density = spectral_density(operator, probes)
    estimate = (density.weights * density.nodes).sum(1).mean() * operator.size
    deviation = (2 * (dense.square().sum() - dense.diagonal().square().sum()) / probes).sqrt()
    assert abs(estimate - exact) <= 4 * deviation + bound


def test_outliers_of_softmax_regression_are_one_less_than_classes():
    operator, dense = softmax(classes=4)
    values = torch.linalg.eigvalsh(dense).flip(0)
    result = lanczos(operator, 4, tol=1e-6, block_size=3)
    torch.testing.assert_close(result.eigenvalues, values[:4], rtol=1e-6, atol=0)
    torch.testing.assert_close(result.eigenvalues[:3], values[:1].expand(3), rtol=1e-6, atol=0)
    assert result.eigenvalues[3] < 0.5 * result.eigenvalues[2]


def test_five_pairs_are_all_converged_by_default():
    # hessian-eigenthings 1.0.0a6 takes 10 steps for k=5, gets one pair and a fourth eigenvalue of 0.652 for 0.945.
    operator, dense = network()
    result = lanczos(operator, 5)
    assert result.converged.all()
    torch.testing.assert_close(result.eigenvalues, torch.linalg.eigvalsh(dense).flip(0)[:5], rtol=1e-3, atol=0)


def test_tracking_while_training():
    # A few products a measurement: the old vector is nearly right.
    net, batch = cases.network(), cases.batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    start, products = None, []
    for _ in range(5):
        operator = HessianOperator(lambda b: (net(b[0]) - b[1]).square().mean(), dict(net.named_parameters()), [batch])
        result = lanczos(operator, 1, tol=1e-2, start=start)
        assert result.converged
        start = result.eigenvectors
        products.append(result.matvecs)
        for _ in range(3):
            optimizer.zero_grad()
            (net(batch[0]) - batch[1]).square().mean().backward()
            optimizer.step()
    assert max(products[1:]) <= 3
