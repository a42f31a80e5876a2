"""iMAML: the implicit gradient of problems that can be solved on paper, and conjugate gradients against a direct solution."""

import math

import pytest
import torch
from by_hand import assert_same, assert_slopes, leaves, loss_of, path, split
from family import HEAD, MODES, TASKS, TwoLayers, WithContext, classification, learner, random, regression

from gradgrad.adaptation import SGD, Execution, Implicit, Momentum
from gradgrad.adaptation.implicit import conjugate_gradients
from gradgrad.batches import TaskBatch
from gradgrad.errors import UsageError
from oracles import LinearRegression

PROXIMITY = 2.0
EXACT = {"proximity": PROXIMITY, "cg_steps": 40, "damping": 0.0}
PROBLEMS = [(LinearRegression(7, 3, seed=2 * t), LinearRegression(5, 3, seed=2 * t + 1)) for t in range(TASKS)]
LINEAR = TaskBatch(
    *(torch.stack(part) for part in zip(*((s.x, s.y[:, None], q.x, q.y[:, None]) for s, q in PROBLEMS), strict=True))
)
EYE = torch.eye(3, dtype=torch.float64)


def linear_learner(bias, names=None):
    """The largest curvature is below 10: the rate 0.1 contracts by 1 - 0.1 * 2 = 0.8 a step at worst, 0.8^200 = 4e-20."""
    return learner(SGD(0.1), 200, names, lambda: torch.nn.Linear(3, 1, bias=bias), proximity=PROXIMITY)


def test_the_inner_loops_of_these_tests_converge():
    assert max(torch.linalg.eigvalsh(support.hessian()).max() for support, _ in PROBLEMS) + PROXIMITY < 10


@pytest.mark.parametrize("mode", MODES)
def test_linear_regression_has_a_closed_form(mode):
    """phi = (H + lambda)^-1 (H w* + lambda theta), so that the gradient is lambda (H + lambda)^-1 g(phi)."""
    of = linear_learner(bias=False)
    theta, expected, losses = of.meta()["network.weight"].detach().flatten(), 0, []
    for support, query in PROBLEMS:
        system = support.hessian() + PROXIMITY * EYE
        phi = torch.linalg.solve(system, 2 * support.x.T @ support.y / 7 + PROXIMITY * theta)
        expected = expected + PROXIMITY * torch.linalg.solve(system, query.gradient(phi)) / TASKS
        losses.append(query.loss(phi))
    got = Implicit(**EXACT)(of, of.meta(), LINEAR, MODES[mode](), 0)
    assert_same(got.gradients, {"network.weight": expected[None]}, 1e-12)
    torch.testing.assert_close(got.losses, torch.stack(losses), rtol=0, atol=1e-12)
    assert got.accuracies.isnan().all()


@pytest.mark.parametrize("mode", MODES)
def test_what_does_not_adapt_gets_the_implicit_gradient_too(mode):
    """A bias b that does not adapt: phi = (H + lambda)^-1 (2 x'(y - b) / n + lambda theta), which b moves as well."""
    of = linear_learner(bias=True, names=("weight",))
    theta, b = (of.meta()[f"network.{name}"].detach().flatten() for name in ("weight", "bias"))
    weight, bias = 0, 0
    for support, query in PROBLEMS:
        system = support.hessian() + PROXIMITY * EYE
        phi = torch.linalg.solve(system, 2 * support.x.T @ (support.y - b) / 7 + PROXIMITY * theta)
        residual = query.x @ phi + b - query.y
        over_phi = 2 * query.x.T @ residual / 5
        phi_over_b = -torch.linalg.solve(system, 2 * support.x.sum(0) / 7)
        weight = weight + PROXIMITY * torch.linalg.solve(system, over_phi) / TASKS
        bias = bias + (2 * residual.mean() + over_phi @ phi_over_b) / TASKS
    got = Implicit(**EXACT)(of, of.meta(), LINEAR, MODES[mode](), 0).gradients
    assert_same(got, {"network.weight": weight[None], "network.bias": bias[None]}, 1e-12)


def ridge(body, head, support_x, support_y):
    """Minimize over the head: mean square of F h - y, plus lambda/2 |h - head|^2, F the features of the body and a one."""
    features = torch.cat([(support_x @ body["weight"].T + body["bias"]).tanh(), torch.ones(len(support_x), 1).double()], 1)
    system = 2 * features.T @ features / len(features) + PROXIMITY * torch.eye(5, dtype=torch.float64)
    return torch.linalg.solve(system, 2 * features.T @ support_y[:, 0] / len(features) + PROXIMITY * head)


def test_a_network_whose_head_adapts_against_finite_differences():
    of, tasks = learner(SGD(0.1), 200, HEAD, proximity=PROXIMITY), TaskBatch(*(part[:2] for part in regression()))

    def bilevel(meta):
        body = {name: meta[f"network.body.{name}"] for name in ("weight", "bias")}
        head, total = torch.cat([meta["network.head.weight"][0], meta["network.head.bias"]]), 0
        for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
            h = ridge(body, head, support_x, support_y)
            answer = (query_x @ body["weight"].T + body["bias"]).tanh() @ h[:4] + h[4]
            total = total + (answer - query_y[:, 0]).square().mean() / 2
        return total

    got = Implicit(**EXACT)(of, of.meta(), tasks, Execution("vmap"), 0).gradients
    assert_slopes(got, bilevel, of.meta())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("make", "damping"),
    [
        (lambda: learner(Momentum(0.1), 3, proximity=PROXIMITY), 0.0),
        (lambda: learner(SGD(0.2), 3, proximity=PROXIMITY), 1.0),
        (lambda: learner(SGD(0.2), 3, HEAD, proximity=PROXIMITY), 0.5),
    ],
    ids=["all adapts", "damped", "head adapts, damped"],
)
def test_it_is_the_formula_wherever_the_inner_loop_ends(mode, make, damping):
    """A dense Hessian from autograd, and a direct solution of ((1 + damping) I + H / lambda) s = g."""
    of, tasks = make(), regression()
    expected = {name: torch.zeros_like(p) for name, p in of.meta().items()}
    for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
        reached = path(of, leaves(of.meta()), support_x, support_y, of.steps, anchor=PROXIMITY)[-1]
        _, slow, _ = split(of, leaves(of.meta()))
        at = {**reached, **slow}
        sizes = [p.numel() for p in at.values()]
        count = sum(p.numel() for p in reached.values())

        def flat_loss(vector, x, y, at=at, sizes=sizes):
            parts = {name: piece.view_as(p) for (name, p), piece in zip(at.items(), vector.split(sizes), strict=True)}
            return loss_of(of, parts, {}, x, y)

        there = torch.cat([p.detach().flatten() for p in at.values()])
        hessian = torch.autograd.functional.hessian(lambda v, x=support_x, y=support_y: flat_loss(v, x, y), there)
        slope = torch.autograd.functional.jacobian(lambda v, x=query_x, y=query_y: flat_loss(v, x, y), there)
        system = (1 + damping) * torch.eye(count, dtype=torch.float64) + hessian[:count, :count] / PROXIMITY
        assert torch.linalg.eigvalsh(system).min() > 0.3  # conjugate gradients take no other
        solution = torch.linalg.solve(system, slope[:count])
        whole = torch.cat([solution, slope[count:] - hessian[count:, :count] @ solution / PROXIMITY])
        for (name, p), piece in zip(at.items(), whole.split(sizes), strict=True):
            expected[f"network.{name}"] += piece.view_as(p) / TASKS
    got = Implicit(PROXIMITY, 40, damping)(of, of.meta(), tasks, MODES[mode](), 0).gradients
    assert_same(got, expected)


@pytest.mark.parametrize("mode", MODES)
def test_classes_are_counted(mode):
    made = learner(
        SGD(0.5), 2, network=lambda: TwoLayers(outputs=3), criterion=torch.nn.functional.cross_entropy, proximity=PROXIMITY
    )
    tasks = classification()
    got = Implicit(PROXIMITY)(made, made.meta(), tasks, MODES[mode](), 0)
    for place, (support_x, support_y, query_x, query_y) in enumerate(zip(*tasks, strict=True)):
        reached = path(made, leaves(made.meta()), support_x, support_y, 2, anchor=PROXIMITY)[-1]
        right = torch.func.functional_call(made.network, reached, (query_x,)).argmax(1) == query_y
        assert got.accuracies[place] == right.double().mean()


def test_a_context_that_is_not_learned_gets_no_gradient():
    of = learner(SGD(0.3), 3, ("context",), WithContext, proximity=PROXIMITY)
    got = Implicit(**EXACT)(of, of.meta(), regression(), Execution("vmap"), 0).gradients
    assert got.keys() == of.meta().keys()
    assert "network.context" not in got


SIZES = {"w": (2, 2), "b": (2,)}


def systems():
    """Four systems of six unknowns: two full ones, the identity, and a right-hand side of zero."""
    root = random(4, 6, 6, seed=0)
    matrix = root @ root.mT + torch.eye(6, dtype=torch.float64)
    matrix[2], right = torch.eye(6, dtype=torch.float64), random(4, 6, seed=1)
    right[3] = 0
    return matrix, right


def named(vector):
    return {"w": vector[:, :4].view(-1, 2, 2), "b": vector[:, 4:]}


def flat(tensors):
    return torch.cat([tensors["w"].flatten(1), tensors["b"]], 1)


@pytest.mark.parametrize("steps", [6, 12, 100])
def test_conjugate_gradients_solve(steps):
    """In exact arithmetic six steps do; in floating-point ones each number is off by condition * eps * size, times a few tens."""
    matrix, right = systems()
    got = conjugate_gradients(lambda v: named((matrix @ flat(v)[..., None])[..., 0]), named(right), steps)
    assert {name: p.shape[1:] for name, p in got.items()} == SIZES
    solution = torch.linalg.solve(matrix, right)
    bound = 100 * torch.linalg.cond(matrix).max() * torch.finfo(torch.float64).eps * solution.abs().max()
    assert bound < 1e-9
    assert ((flat(got) - solution).abs() <= bound).all()
    assert torch.equal(flat(got)[2:], right[2:])  # the identity and zero need one step, and stand still from there


def test_conjugate_gradients_are_the_best_of_their_space():
    """After k steps the error in the norm of A is the least of all x in span(r, A r, ..., A^(k-1) r): solved densely."""
    matrix, right = systems()
    for k in range(1, 5):
        got = flat(conjugate_gradients(lambda v: named((matrix @ flat(v)[..., None])[..., 0]), named(right), k))
        for t in range(2):
            space = torch.linalg.qr(torch.stack([torch.linalg.matrix_power(matrix[t], i) @ right[t] for i in range(k)], 1)).Q
            best = space @ torch.linalg.solve(space.T @ matrix[t] @ space, space.T @ right[t])
            # The basis of powers has the condition of A to the power k - 1; see above for the rest.
            bound = 100 * torch.linalg.cond(matrix[t]) ** (k - 1) * torch.finfo(torch.float64).eps * best.abs().max() + 1e-13
            assert ((got[t] - best).abs() <= bound).all()
            assert (got[t] - torch.linalg.solve(matrix[t], right[t])).abs().max() > 1e-3  # not yet there


@pytest.mark.parametrize("settings", [{"proximity": 0.0}, {"proximity": math.nan}, {"cg_steps": 0}, {"damping": -1.0}])
def test_settings_out_of_range(settings):
    got = {"proximity": 2.0, "cg_steps": 5, "damping": 0.0, **settings}
    said = ", ".join(f"{name} {value}" for name, value in got.items())
    sentence = f"Implicit got {said}; expected proximity above 0, 1 step or more, damping of 0 or more."
    with pytest.raises(UsageError) as error:  # noqa: PT011
        Implicit(**settings)
    assert str(error.value) == sentence


def test_learned_rates_are_refused():
    sentence = (
        r"^Implicit got an inner optimizer with learned rates, on which its gradient does not depend\.\nwrite:    learn: null, or"
    )
    with pytest.raises(UsageError, match=sentence):
        Implicit().check(learner(SGD(0.1, "tensor")))
    assert Implicit().check(learner()) is None
    assert not Implicit().compiles
    assert Implicit(3.0).proximity == 3.0
