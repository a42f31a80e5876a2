"""Meta-gradients through the inner loop: each variant in each mode against plain autograd and against finite differences."""

import dataclasses

import pytest
import torch
from by_hand import assert_same, assert_slopes, leaves, meta_gradient, meta_loss, path, split
from family import HEAD, MODES, TASKS, VARIANTS, learner, regression

from gradgrad.adaptation import SGD, Execution, Momentum, Unrolled
from gradgrad.adaptation.unrolled import UnrolledObjective
from gradgrad.errors import UsageError
from oracles import LinearRegression


def gradient(variant, execution, checkpoint=False):
    of = variant.learner
    return variant.unrolled(checkpoint=checkpoint)(of, of.meta(), variant.tasks, execution, variant.iteration)


@pytest.mark.parametrize("checkpoint", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", VARIANTS)
def test_all_modes_give_the_gradient_of_plain_loops(name, mode, checkpoint):
    variant = VARIANTS[name]()
    got = gradient(variant, MODES[mode](), checkpoint)
    assert_same(got.gradients, meta_gradient(variant.learner, variant.tasks, variant.first_order, variant.weights))
    assert got.losses.shape == got.accuracies.shape == (TASKS,)
    assert not any(tensor.requires_grad for tensor in (got.losses, got.accuracies, *got.gradients.values()))
    assert all(p.grad is None for p in variant.learner.network.parameters())
    for place in range(TASKS):
        one = type(variant.tasks)(*(part[place : place + 1] for part in variant.tasks))
        alone = meta_loss(variant.learner, leaves(variant.learner.meta()), one)
        torch.testing.assert_close(got.losses[place], alone.detach(), rtol=0, atol=1e-10)


SECOND_ORDER = [name for name, make in VARIANTS.items() if not make().first_order]


@pytest.mark.parametrize("name", SECOND_ORDER)
def test_second_order_is_the_slope_of_finite_differences(name):
    variant = VARIANTS[name]()
    tasks = type(variant.tasks)(*(part[:2] for part in variant.tasks))
    got = gradient(variant._replace(tasks=tasks), Execution("vmap"))
    assert_slopes(
        got.gradients, lambda meta: meta_loss(variant.learner, meta, tasks, weights=variant.weights), variant.learner.meta()
    )


@pytest.mark.parametrize("mode", MODES)
def test_first_order_is_the_query_gradient_where_adaptation_ends(mode):
    of, tasks = learner(steps=3), regression()
    meta = of.meta()
    first = Unrolled(first_order=True)(of, meta, tasks, MODES[mode](), 0).gradients
    expected = {name: torch.zeros_like(p) for name, p in meta.items()}
    for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
        reached = path(of, leaves(meta), support_x, support_y, 3)[-1]
        there = {name: p.detach().requires_grad_() for name, p in reached.items()}
        loss = of.criterion(torch.func.functional_call(of.network, there, (query_x,)), query_y)
        for name, g in zip(there, torch.autograd.grad(loss, list(there.values())), strict=True):
            expected[f"network.{name}"] += g / TASKS
    assert_same(first, expected)
    second = Unrolled()(of, meta, tasks, MODES[mode](), 0).gradients
    length = torch.cat([g.flatten() for g in second.values()]).norm()
    assert torch.cat([(second[name] - first[name]).flatten() for name in first]).norm() > 0.1 * length


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("steps", [1, 5])
def test_linear_regression_has_a_closed_form(mode, steps):
    """Mean over tasks of (M^k)' g at w* + M^k (w_0 - w*), M = I - a H: see test_adapt."""
    problems = [(LinearRegression(7, 3, seed=2 * t), LinearRegression(5, 3, seed=2 * t + 1)) for t in range(3)]
    tasks = type(regression())(
        *(torch.stack(part) for part in zip(*((s.x, s.y[:, None], q.x, q.y[:, None]) for s, q in problems), strict=True))
    )
    of = learner(SGD(0.1), steps, network=lambda: torch.nn.Linear(3, 1, bias=False))
    start, second, first = of.meta()["network.weight"].detach().flatten(), 0, 0
    for support, query in problems:
        power = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - 0.1 * support.hessian(), steps)
        best = torch.linalg.lstsq(support.x, support.y).solution
        slope = query.gradient(best + power @ (start - best)) / 3
        second, first = second + power.T @ slope, first + slope
    for first_order, expected in ((False, second), (True, first)):
        got = Unrolled(first_order)(of, of.meta(), tasks, MODES[mode](), 0).gradients
        assert_same(got, {"network.weight": expected[None]}, 1e-12)


def test_cavia_adapts_its_context_and_learns_the_rest():
    variant = VARIANTS["CAVIA"]()
    got = gradient(variant, Execution("vmap")).gradients
    assert got.keys() == {f"network.network.{name}" for name in ("body.weight", "body.bias", "head.weight", "head.bias")}
    still = dataclasses.replace(variant.learner, optimizer=SGD(1e-300))
    without = gradient(variant._replace(learner=still), Execution("vmap")).gradients
    assert max((got[name] - without[name]).abs().max() for name in got) > 0.01  # the context acts
    assert without["network.network.body.weight"][:, 2:].abs().max() < 1e-290  # and begins at zero


def test_what_adapts_is_what_is_named():
    for name, names in (("ANIL", ("head.weight", "head.bias")), ("BOIL", ("body.weight", "body.bias"))):
        of, tasks = VARIANTS[name]().learner, regression()
        parts = of.parts(of.meta())
        assert set(parts.fast) == set(names)
        assert {**parts.fast, **parts.slow}.keys() == dict(of.network.named_parameters()).keys()
        *_, reached = of.path(parts, (tasks.support_x[0], tasks.support_y[0]), 1)
        assert set(reached) == set(names)
        assert not any(torch.equal(reached[name], parts.fast[name]) for name in names)


def test_an_unused_parameter_has_a_gradient_of_zero():
    got = gradient(VARIANTS["unused parameter"](), Execution("vmap")).gradients
    assert torch.equal(got["network.idle"], torch.zeros(2, 3, dtype=torch.float64))
    assert torch.equal(got["rates.idle"], torch.zeros((), dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # what torch.compile imports, torch 2.13
def test_compiled_is_the_same():
    """One compilation for what could go wrong in one: rates by step, momentum, clipping, weights of the losses, two chunks."""
    of = learner(Momentum(0.1, nesterov=True, learn="tensor", per_step=True, clip_norm=1.0), 2, HEAD)
    tasks = type(regression())(*(part[:4] for part in regression()))
    execution, unrolled = Execution("chunked", chunk_size=2, compile=True), Unrolled(multi_step_iterations=4)
    for iteration, weights in ((1, (0.375, 0.625)), (3, (0.125, 0.875))):  # weights are an input, no second compilation
        got = unrolled(of, of.meta(), tasks, execution, iteration)
        assert_same(got.gradients, meta_gradient(of, tasks, weights=weights))
        assert not any(tensor.requires_grad for tensor in (got.losses, *got.gradients.values()))
    assert len(execution._compiled) == 1


def test_multi_step_weights_fade_into_the_last_loss():
    unrolled = Unrolled(multi_step_iterations=8)
    assert unrolled.step_weights(4, 0) == [0.25] * 4
    seen = torch.tensor([unrolled.step_weights(4, iteration) for iteration in range(8)], dtype=torch.float64)
    torch.testing.assert_close(seen.sum(1), torch.ones(8, dtype=torch.float64), rtol=0, atol=4e-16)  # four roundings below one
    torch.testing.assert_close(seen.diff(dim=0)[:, :3], torch.full((7, 3), -1 / 32, dtype=torch.float64), rtol=0, atol=4e-16)
    assert seen[7].tolist() == [1 / 32] * 3 + [29 / 32]
    assert unrolled.step_weights(4, 8) is None
    assert unrolled.step_weights(4, 9) is None
    assert unrolled.step_weights(1, 0) is None
    assert unrolled.step_weights(0, 0) is None
    assert Unrolled().step_weights(4, 0) is None


@pytest.mark.parametrize("mode", MODES)
def test_order_and_loss_switch_exactly_at_their_iteration(mode):
    of, tasks = learner(steps=2), regression()
    unrolled = Unrolled(first_order_iterations=3, multi_step_iterations=5)
    expected = {
        2: meta_gradient(of, tasks, first_order=True, weights=(0.3, 0.7)),
        3: meta_gradient(of, tasks, weights=(0.2, 0.8)),
        4: meta_gradient(of, tasks, weights=(0.1, 0.9)),
        5: meta_gradient(of, tasks),
        6: meta_gradient(of, tasks),
    }
    for iteration, gradients in expected.items():
        assert_same(unrolled(of, of.meta(), tasks, MODES[mode](), iteration).gradients, gradients)


@pytest.mark.parametrize("mode", MODES)
def test_more_steps_than_rates_repeat_the_last(mode):
    made = VARIANTS["rates by tensor and step"]().learner
    longer, tasks = dataclasses.replace(made, steps=5), regression()
    got = Unrolled()(longer, longer.meta(), tasks, MODES[mode](), 0).gradients
    assert_same(got, meta_gradient(longer, tasks))
    assert got["rates.head.bias"].shape == (3,)


@pytest.mark.parametrize("mode", MODES)
def test_no_steps_train_the_network_as_it_is(mode):
    of, tasks = learner(steps=0), regression()
    got = Unrolled()(of, of.meta(), tasks, MODES[mode](), 0)
    meta = leaves(of.meta())
    fast, _, _ = split(of, meta)
    output = torch.func.functional_call(of.network, fast, (tasks.query_x.flatten(0, 1),))
    loss = (output - tasks.query_y.flatten(0, 1)).square().mean()
    assert_same(got.gradients, dict(zip(meta, torch.autograd.grad(loss, list(meta.values())), strict=True)))


def test_the_mean_over_tasks_is_differentiable_too():
    of, tasks = learner(steps=2), regression()
    for mode, make in MODES.items():
        loss = make().mean(UnrolledObjective(of, loop=mode == "loop"), of.meta(), tasks)
        torch.testing.assert_close(loss.detach(), meta_loss(of, of.meta(), tasks).detach(), rtol=0, atol=1e-10)
        got = torch.autograd.grad(loss, list(of.meta().values()))
        assert_same(dict(zip(of.meta(), got, strict=True)), meta_gradient(of, tasks))


def test_modes_that_there_are():
    for settings, sentence in [
        ({"mode": "pmap"}, r"^mode is 'pmap'; expected vmap, chunked or loop\.$"),
        ({"chunk_size": 0}, r"^chunk_size is 0; expected 1 or more tasks at a time\.$"),
        ({"mode": "loop", "compile": True}, r"^mode loop cannot be compiled: .*\nwrite:    mode: vmap, or compile: false$"),
    ]:
        with pytest.raises(UsageError, match=sentence):
            Execution(**settings)


@pytest.mark.parametrize("settings", [{"first_order_iterations": -1}, {"multi_step_iterations": -2}])
def test_negative_iterations(settings):
    got = {"first_order_iterations": 0, "multi_step_iterations": 0, **settings}
    said = ", ".join(f"{name} {value}" for name, value in got.items())
    with pytest.raises(UsageError, match=rf"^Unrolled got {said}; expected 0 or more\.$"):
        Unrolled(**settings)


def test_checkpoints_are_not_compiled():
    assert Unrolled().compiles
    assert not Unrolled(checkpoint=True).compiles
