"""The penalty's gradient against closed forms, against double backward, against the dense Hessian and finite differences."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

import cases
from gradgrad.errors import UsageError
from gradgrad.penalties import GradientNormPenalty, penalize

EPS = torch.finfo(torch.float64).eps
BATCH = cases.batch()


def gradient_of(module, penalty, batch=BATCH):
    """Of the penalty alone: the objective's less the loss's."""
    module.zero_grad()
    penalize(module, batch, [penalty]).total.backward()
    both = cases.flat_gradients(module)
    module.zero_grad()
    module.loss(batch).backward()
    return both - cases.flat_gradients(module)


def double_backward(module, weight, p, squared, batch=BATCH, names=None):
    """The textbook: the norm of a gradient with a graph, differentiated."""
    params = dict(module.named_parameters())
    chosen = [params[name] for name in names or params]
    gradients = torch.autograd.grad(module.loss(batch), chosen, create_graph=True)
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]), p)
    value = weight * (norm**2 if squared else norm)
    found = torch.autograd.grad(value, list(params.values()), allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(params.values(), found, strict=True)]
    return value.detach(), torch.cat([g.flatten() for g in flat])


@pytest.mark.parametrize("problem", cases.CLOSED_FORMS)
@pytest.mark.parametrize("weight", [0.25, 3.0])
def test_value_and_gradient_equal_the_closed_form(problem, weight):
    module = cases.Problem(problem)
    theta = module.theta.detach()
    penalized = penalize(module, torch.ones(1), [GradientNormPenalty(weight)])
    expected = problem.gradient(theta)
    # a few dozen multiplications and additions, each off by at most half an ulp of numbers below 1e3
    close = {"rtol": 64 * EPS, "atol": 1e3 * 64 * EPS}
    torch.testing.assert_close(penalized.penalty, weight * expected.square().sum(), **close)
    torch.testing.assert_close(penalized.norms["gradient_norm"], expected.norm(), **close)
    torch.testing.assert_close(penalized.loss, problem.loss(theta), **close)
    actual = gradient_of(module, GradientNormPenalty(weight))
    torch.testing.assert_close(actual, problem.penalty_gradient(theta, weight), **close)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("p", [1, 1.5, 2, 4, math.inf])
def test_every_norm_has_the_gradient_of_double_backward(p, squared):
    module = cases.Regression(cases.network())
    value, expected = double_backward(module, 0.7, p, squared)
    penalty = GradientNormPenalty(0.7, p=p, squared=squared)
    torch.testing.assert_close(gradient_of(module, penalty), expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())
    torch.testing.assert_close(penalize(module, BATCH, [penalty]).penalty, value, rtol=1e-12, atol=0)


def test_the_gradient_is_twice_the_dense_hessian_times_the_gradient():
    module = cases.Regression(cases.network())
    params = dict(module.named_parameters())
    sizes = [p.numel() for p in params.values()]

    def flat_loss(flat):
        pieces = zip(params.items(), flat.split(sizes), strict=True)
        return (
            (functional_call(module, {name: piece.view_as(p) for (name, p), piece in pieces}, (BATCH[0],)) - BATCH[1])
            .square()
            .mean()
        )

    flat = torch.cat([p.detach().flatten() for p in params.values()])
    expected = 2 * 0.7 * torch.func.hessian(flat_loss)(flat) @ torch.func.grad(flat_loss)(flat)
    actual = gradient_of(module, GradientNormPenalty(0.7))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


def test_it_passes_gradcheck():
    module = cases.Regression(cases.network())
    names = list(dict(module.named_parameters()))
    values = [p.detach().clone().requires_grad_() for p in module.parameters()]
    penalty = GradientNormPenalty(0.5)

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.values = nn.ParameterList()

        def named_parameters(self, *args, **kwargs):
            return iter(zip(names, self.current, strict=True))

        def loss(self, batch):
            return (functional_call(module, dict(zip(names, self.current, strict=True)), (batch[0],)) - batch[1]).square().mean()

    functional = Functional()

    def objective(*current):
        functional.current = current
        return penalize(functional, BATCH, [penalty]).total

    # The first derivative is exact by construction. A second one is refused: see the next test.
    assert torch.autograd.gradcheck(objective, values)


@pytest.mark.parametrize("method", ["exact", "finite_difference", "sam"])
def test_a_second_derivative_of_the_objective_is_refused_not_wrong(method):
    module = cases.Problem(cases.CLOSED_FORMS[0])
    total = penalize(module, torch.ones(1), [GradientNormPenalty(1.0, method=method)]).total
    with pytest.raises(
        UsageError, match=r"^A penalized loss can be differentiated once only; got create_graph=True\.\nwrite:    module"
    ):
        torch.autograd.grad(total, module.theta, create_graph=True)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("p", [1, 2, 4, math.inf])
@pytest.mark.parametrize("method", ["exact", "finite_difference"])
def test_it_is_finite_where_the_gradient_is_zero(method, p, squared):
    class Bowl:
        size = 3

        def loss(self, theta):
            return theta.square().sum()

    module = cases.Problem(Bowl(), torch.zeros(3, dtype=torch.float64))
    penalize(module, torch.ones(1), [GradientNormPenalty(1.0, p=p, squared=squared, method=method)]).total.backward()
    assert module.theta.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("p", [2, 4])
def test_finite_differences_converge_to_the_exact_gradient_at_first_order(p, squared):
    module = cases.Regression(cases.network())
    exact = gradient_of(module, GradientNormPenalty(0.7, p=p, squared=squared))
    errors = []
    for radius in (1e-2, 1e-3, 1e-4):
        penalty = GradientNormPenalty(0.7, p=p, squared=squared, method="finite_difference", radius=radius)
        errors.append((gradient_of(module, penalty) - exact).norm().item())
    # A forward difference errs by radius/2 times a third derivative: ten times less radius, ten times less error.
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


def mutate_and_restore(module, radius, batch=BATCH):
    """SAM as its authors' optimizer does it: climb, differentiate there, go back."""
    gradients = torch.autograd.grad(module.loss(batch), list(module.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    with torch.no_grad():
        for p, g in zip(module.parameters(), gradients, strict=True):
            p.add_(g, alpha=radius / norm.item())
    ahead = torch.autograd.grad(module.loss(batch), list(module.parameters()))
    with torch.no_grad():
        for p, g in zip(module.parameters(), gradients, strict=True):
            p.sub_(g, alpha=radius / norm.item())
    return [torch.cat([g.flatten() for g in found]) for found in (gradients, ahead)]


def test_sam_equals_climbing_and_coming_back():
    module = cases.Regression(cases.network())
    here, ahead = mutate_and_restore(module, 0.05)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for weight in (1.0, 0.6):
        actual = gradient_of(module, GradientNormPenalty(weight, method="sam"))
        torch.testing.assert_close(actual, weight * (ahead - here), rtol=1e-9, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_the_norm_by_finite_differences_is_gnp():
    # Zhao et al. 2022: (1 - alpha) g + alpha g', with alpha = weight / radius.
    module = cases.Regression(cases.network())
    here, ahead = mutate_and_restore(module, 0.1)
    penalty = GradientNormPenalty(0.08, squared=False, method="finite_difference", radius=0.1)
    torch.testing.assert_close(gradient_of(module, penalty), 0.8 * (ahead - here), rtol=1e-9, atol=1e-12)


def test_sam_reports_what_the_loss_rises_by():
    module = cases.Regression(cases.network())
    penalized = penalize(module, BATCH, [GradientNormPenalty(1.0, method="sam")])
    params = dict(module.named_parameters())
    gradients = torch.autograd.grad(module.loss(BATCH), list(params.values()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    climbed = {name: p + 0.05 * g / norm for (name, p), g in zip(params.items(), gradients, strict=True)}
    rise = (functional_call(module, climbed, (BATCH[0],)) - BATCH[1]).square().mean() - module.loss(BATCH)
    torch.testing.assert_close(penalized.penalty, rise.detach(), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("method", ["finite_difference", "sam"])
def test_the_second_pass_moves_no_buffer_and_sees_the_same_masks(method):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    module, twin = cases.Regression(net), cases.Regression(copy.deepcopy(net))
    torch.manual_seed(7)
    twin.loss(BATCH)
    after_one_pass = torch.rand(1)
    torch.manual_seed(7)
    penalty = GradientNormPenalty(0.5, method=method, radius=1e-6)
    total = penalize(module, BATCH, [penalty]).total
    assert torch.equal(torch.rand(1), after_one_pass)  # the random numbers outside go on as after one pass
    for name, value in module.named_buffers():
        assert torch.equal(value, dict(twin.named_buffers())[name]), name
    total.backward()
    # With another mask the difference of two gradients over a radius of 1e-6 would be of the order 1e6.
    assert cases.flat_gradients(module).abs().max() < 1e3


def test_the_second_pass_begins_with_the_buffers_of_the_first():
    torch.manual_seed(0)
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 5)), nn.Tanh(), nn.Linear(5, 1)).double()
    module = cases.Regression(net)
    start = copy.deepcopy(net.state_dict())

    def both(radius):
        net.load_state_dict(start)
        penalized = penalize(module, BATCH, [GradientNormPenalty(0.5, method="finite_difference", radius=radius)])
        return torch.cat([g.flatten() for g in torch.autograd.grad(penalized.total, list(module.parameters()))])

    # Were the power iteration of the first pass kept for the second, the difference would grow as 1 / radius.
    assert (both(1e-5) - both(1e-4)).norm() < 1e-3 * both(1e-4).norm()


def test_several_penalties_are_all_about_the_plain_loss():
    module = cases.Regression(cases.network())
    terms = [
        GradientNormPenalty(0.7),
        GradientNormPenalty(0.1, method="finite_difference"),
        GradientNormPenalty(1.0, method="sam"),
        GradientNormPenalty(0.2, p=1, squared=False),
    ]
    module.zero_grad()
    penalized = penalize(module, BATCH, terms)
    penalized.total.backward()
    both = cases.flat_gradients(module)
    module.zero_grad()
    module.loss(BATCH).backward()
    expected = cases.flat_gradients(module) + sum(gradient_of(module, term) for term in terms)
    torch.testing.assert_close(both, expected, rtol=1e-10, atol=1e-12)
    assert penalized.loss.item() == module.loss(BATCH).item()


@pytest.mark.parametrize("pattern", ["net.0.*", "*.weight", "^net\\.2\\.(weight|bias)$"])
@pytest.mark.parametrize("method", ["exact", "finite_difference"])
def test_a_pattern_chooses_whose_gradient_is_penalized(pattern, method):
    module = cases.Regression(cases.network())
    names = {"net.0.*": ["net.0.weight", "net.0.bias"], "*.weight": ["net.0.weight", "net.2.weight"]}.get(
        pattern, ["net.2.weight", "net.2.bias"]
    )
    value, expected = double_backward(module, 0.7, 2, True, names=names)
    penalty = GradientNormPenalty(0.7, parameters=pattern, method=method, radius=None if method == "exact" else 1e-6)
    # the forward difference errs by half the radius times a third derivative below 1e3
    close = 1e-10 if method == "exact" else 1e-3
    torch.testing.assert_close(gradient_of(module, penalty), expected, rtol=close, atol=close * expected.abs().max().item())
    torch.testing.assert_close(penalize(module, BATCH, [penalty]).penalty, value, rtol=1e-12, atol=0)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 12), st.sampled_from([(2, True), (2, False), (1, False)]))
def test_micro_batches_are_weighted_by_their_samples(size, norm):
    p, squared = norm
    module = cases.Regression(cases.network())
    penalty = GradientNormPenalty(0.7, p=p, squared=squared, micro_batch_size=size)
    expected = 0
    for start in range(0, 8, size):
        piece = tuple(part[start : start + size] for part in BATCH)
        expected = expected + double_backward(module, 0.7, p, squared, piece)[1] * len(piece[0]) / 8
    torch.testing.assert_close(gradient_of(module, penalty), expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


def test_micro_batched_sam_climbs_from_each_piece():
    module = cases.Regression(cases.network())
    expected = 0
    for start in (0, 3, 6):
        piece = tuple(part[start : start + 3] for part in BATCH)
        here, ahead = mutate_and_restore(module, 0.05, piece)
        expected = expected + (ahead - here) * len(piece[0]) / 8
    actual = gradient_of(module, GradientNormPenalty(1.0, method="sam", micro_batch_size=3))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["exact", "finite_difference", "sam"])
def test_frozen_unused_and_tied_parameters(method):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.used = nn.Parameter(torch.ones(2, dtype=torch.float64))
            self.again = self.used
            self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
            self.frozen = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)
            self.empty = nn.Parameter(torch.ones(0, dtype=torch.float64))

        def loss(self, batch):
            return (self.used * self.again * self.frozen).sum() + self.empty.sum()

    module = Odd()
    actual = gradient_of(module, GradientNormPenalty(1.0, method=method))
    # The loss is |used|^2 with gradient (2, 2): 2 H g = 8; SAM's is H r g/|g| = 2 * 0.05 / sqrt(2).
    expected = 2 * 0.05 / 2**0.5 if method == "sam" else 8
    assert actual.tolist() == pytest.approx([expected, expected, 0, 0, 0, 0], rel=1e-10)
    assert module.unused.grad is None
    assert module.frozen.grad is None


def test_nothing_accumulates_in_grad():
    module = cases.Regression(cases.network())
    for method in ("exact", "finite_difference", "sam"):
        penalize(module, BATCH, [GradientNormPenalty(1.0, method=method)])
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("method", ["exact", "finite_difference", "sam"])
def test_under_bfloat16_it_is_near_the_gradient_in_full_precision(method):
    module = cases.Regression(cases.network()).float()
    batch = tuple(part.float() for part in BATCH)
    # bfloat16 has 8 bits: the difference of two gradients is known to 2^-8 of a gradient over the radius.
    penalty = GradientNormPenalty(1.0 if method == "sam" else 0.7, method=method, radius=None if method == "exact" else 0.5)
    full = gradient_of(module, penalty, batch)
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        penalized = penalize(module, batch, [penalty])
    penalized.total.backward()
    both = cases.flat_gradients(module)
    module.zero_grad()
    module.loss(batch).backward()
    half = both - cases.flat_gradients(module)
    assert (half - full).norm() < 0.1 * full.norm()


@pytest.mark.parametrize("method", ["exact", "finite_difference", "sam"])
def test_a_gradient_scaler_scales_the_whole_objective_and_not_the_inner_gradient(method):
    # Lightning scales after `training_step`: on a GPU by its fp16 plugin, here by the same scaler of PyTorch.
    module = cases.Regression(cases.network()).float()
    batch = tuple(part.float() for part in BATCH)
    penalty = GradientNormPenalty(1.0 if method == "sam" else 0.7, method=method, radius=None if method == "exact" else 0.5)
    penalized = penalize(module, batch, [penalty])
    penalized.total.backward()
    full = cases.flat_gradients(module)
    norm = penalized.norms["gradient_norm"]
    module.zero_grad()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6)
    with torch.autocast("cpu", torch.float16):
        penalized = penalize(module, batch, [penalty])
    scaler.scale(penalized.total).backward()
    assert cases.flat_gradients(module).norm() > 60 * full.norm()
    scaler.unscale_(optimizer)
    # float16 has 11 bits; a finite difference is known to 2^-11 of a gradient, times 2 w |g| / radius, which is about 60 here.
    assert (cases.flat_gradients(module) - full).norm() < (0.05 if method == "finite_difference" else 0.01) * full.norm()
    assert penalized.norms["gradient_norm"].item() == pytest.approx(norm.item(), rel=0.01)


def test_infinity_may_be_written_as_a_word():
    assert GradientNormPenalty(1.0, p="inf").p == math.inf


def test_the_short_form_for_one_penalty():
    module = cases.Regression(cases.network())
    short = GradientNormPenalty(0.7)(module, BATCH, 3)
    assert torch.equal(short.total, penalize(module, BATCH, [GradientNormPenalty(0.7)], 3).total)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"p": 0.5}, r"p 0\.5; write 1, 2, 4, another number from 1 on, or inf\."),
        ({"p": "two"}, r"p 'two'; write 1, 2, 4"),
        ({"p": math.nan}, r"p nan; write 1, 2, 4"),
        ({"method": "magic"}, r"method 'magic'; write exact, finite_difference or sam\."),
        ({"scope": "here"}, r"scope 'here'; write local or global\."),
        ({"radius": 0.1}, r"radius 0\.1 with method exact; write finite_difference or sam, or no radius\."),
        ({"radius": -0.1, "method": "sam"}, r"radius -0\.1; write a number larger than 0, 0\.05 for example\."),
        ({"p": 1, "method": "sam"}, r"p 1 and squared True with method sam; write neither: sam knows the 2-norm only\."),
        ({"p": True}, r"p True; write 1, 2, 4"),
        ({"parameters": 3}, r"parameters 3; write a glob such as '\*\.weight'\."),
        ({"micro_batch_size": 2.5}, r"micro_batch_size 2\.5; write 1 or more samples\."),
        ({"micro_batch_size": 0}, r"micro_batch_size 0; write 1 or more samples\."),
        ({"micro_batch_size": 2, "scope": "global"}, r"scope global with a micro_batch_size; write local"),
    ],
)
def test_a_senseless_argument_is_refused(arguments, sentence):
    with pytest.raises(UsageError, match=f"^GradientNormPenalty got {sentence}"):
        GradientNormPenalty(1.0, **arguments)
