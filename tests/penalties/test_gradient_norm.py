"""The penalty's gradient against closed forms, against the dense Hessian, and against finite differences."""

import pytest
import torch
from torch.func import functional_call, grad, hessian

import cases
from gradgrad.errors import UsageError
from gradgrad.penalties import GradientNormPenalty

EPS = torch.finfo(torch.float64).eps


@pytest.mark.parametrize("problem", cases.CLOSED_FORMS)
@pytest.mark.parametrize("weight", [0.25, 3.0])
def test_value_and_gradient_equal_the_closed_form(problem, weight):
    theta = torch.linspace(
        -1, 2, len(problem.gradient(torch.zeros_like(_start(problem)))), dtype=torch.float64, requires_grad=True
    )
    term = GradientNormPenalty(weight)(problem.loss(theta), [theta], step=0)
    (gradient,) = torch.autograd.grad(term.value, theta)
    expected = problem.gradient(theta.detach())
    # a few dozen multiplications and additions, each off by at most half an ulp of numbers below 1e3
    close = {"rtol": 64 * EPS, "atol": 1e3 * 64 * EPS}
    torch.testing.assert_close(term.value.detach(), weight * expected.square().sum(), **close)
    torch.testing.assert_close(term.gradient_norm, expected.norm(), **close)
    torch.testing.assert_close(gradient, problem.penalty_gradient(theta.detach(), weight), **close)


def _start(problem):
    return torch.zeros(problem.x.shape[1] if hasattr(problem, "x") else len(problem.vector), dtype=torch.float64)


def test_gradient_equals_twice_the_dense_hessian_times_the_gradient():
    net, (x, y) = cases.network(), cases.batch()
    params = dict(net.named_parameters())
    sizes = [p.numel() for p in params.values()]

    def flat_loss(flat):
        pieces = flat.split(sizes)
        named = {name: piece.view_as(p) for (name, p), piece in zip(params.items(), pieces, strict=True)}
        return (functional_call(net, named, (x,)) - y).square().mean()

    flat = torch.cat([p.detach().flatten() for p in params.values()])
    expected = 2 * 0.7 * hessian(flat_loss)(flat) @ grad(flat_loss)(flat)

    term = GradientNormPenalty(0.7)((net(x) - y).square().mean(), net.parameters(), step=0)
    term.value.backward()
    actual = torch.cat([p.grad.flatten() for p in net.parameters()])
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


def test_gradient_equals_finite_differences():
    net, (x, y) = cases.network(), cases.batch()
    penalty = GradientNormPenalty(0.7)

    def value():
        return penalty((net(x) - y).square().mean(), net.parameters(), step=0).value

    value().backward()
    # The central difference errs by h^2 f'''/6 + eps |f| / h; h = eps^(1/3) makes both about eps^(2/3) = 4e-11 of the value.
    step = EPS ** (1 / 3)
    weight = net[0].weight
    for place in [(0, 0), (2, 1), (4, 2)]:
        with torch.no_grad():
            weight[place] += step
        above = value().item()
        with torch.no_grad():
            weight[place] -= 2 * step
        below = value().item()
        with torch.no_grad():
            weight[place] += step
        assert (above - below) / (2 * step) == pytest.approx(weight.grad[place].item(), rel=1e-7, abs=1e-7)


def test_it_passes_gradgradcheck():
    net = cases.network()
    x, y = cases.batch(rows=3)
    names = [name for name, _ in net.named_parameters()]
    params = [p.detach().clone().requires_grad_() for p in net.parameters()]

    def objective(*values):
        loss = (functional_call(net, dict(zip(names, values, strict=True)), (x,)) - y).square().mean()
        return GradientNormPenalty(0.5)(loss, values, step=0).value

    # Its first derivative is exact by construction; the second is not promised (v is taken out of the graph).
    assert torch.autograd.gradcheck(objective, params)


def test_it_is_finite_where_the_gradient_is_zero():
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    term = GradientNormPenalty(1.0)(theta.square().sum(), [theta], step=0)
    term.value.backward()
    assert term.value.item() == 0
    assert theta.grad.tolist() == [0, 0, 0]


def test_frozen_and_unused_parameters_are_passed_over():
    used, frozen, unused = (torch.ones(2, dtype=torch.float64, requires_grad=flag) for flag in (True, False, True))
    term = GradientNormPenalty(1.0)((used**2 * frozen).sum(), [used, frozen, unused], step=0)
    term.value.backward()
    assert term.value.item() == 8  # the gradient is (2, 2)
    assert used.grad.tolist() == [8, 8]  # 2 H g = 2 * 2 * 2
    assert unused.grad is None


def test_nothing_accumulates_in_grad():
    net, (x, y) = cases.network(), cases.batch()
    GradientNormPenalty(1.0)((net(x) - y).square().mean(), net.parameters(), step=0)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("warmup_steps", "step", "weight"), [(0, 0, 2.0), (0, 9, 2.0), (4, 0, 0.0), (4, 1, 0.5), (4, 4, 2.0), (4, 5, 2.0)]
)
def test_the_weight_warms_up_linearly(warmup_steps, step, weight):
    assert GradientNormPenalty(2.0, warmup_steps).weight_at(step) == weight


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_senseless_weight_is_refused(weight):
    with pytest.raises(
        UsageError, match=rf"^GradientNormPenalty got weight {weight}; write a finite number that is 0 or larger\.$"
    ):
        GradientNormPenalty(weight)


def test_a_negative_warm_up_is_refused():
    with pytest.raises(UsageError, match=r"^GradientNormPenalty got warmup_steps -1; write 0 \(no warm-up\) or more steps\.$"):
        GradientNormPenalty(1.0, warmup_steps=-1)
