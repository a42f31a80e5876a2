"""Scores of tasks step by step against a loop by hand, and what they are over many tasks against numpy."""

import gc

import numpy
import pytest
import torch
from by_hand import leaves, path, split
from family import HEAD, MODES, TASKS, VARIANTS, learner, regression
from torch.func import functional_call

from gradgrad.adaptation import SGD, Adam, Execution, Unrolled
from gradgrad.adaptation.evaluation import diverged, evaluate, statistics

NAN, INF = torch.nan, torch.inf
AROUND = {"gradients on": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["MAML, 1 step", "ANIL", "CAVIA", "rates by tensor and step", "Adam", "cross-entropy"])
def test_it_is_a_loop_by_hand(name, mode, around):
    variant, steps, shown = VARIANTS[name](), 4, 2
    of, tasks = variant.learner, variant.tasks
    with AROUND[around]():
        got = evaluate(
            of, of.meta(), type(tasks)(*(part.clone() for part in tasks)), MODES[mode](), steps, shown, keep_params=True
        )
    assert got.losses.shape == got.accuracies.shape == (TASKS, steps + 1)
    assert not any(tensor.requires_grad for tensor in (*got[1:5], *got.params.values()))
    assert set(got.params) == set(dict(of.network.named_parameters()))
    close = {"rtol": 0, "atol": 1e-10}  # as for the modes: by_hand.assert_same
    for place, (support_x, support_y, query_x, query_y) in enumerate(zip(*tasks, strict=True)):
        meta = leaves(of.meta())
        visited, (_, slow, _) = path(of, meta, support_x, support_y, steps), split(of, meta)
        for step, fast in enumerate(visited):
            output = functional_call(of.network, {**fast, **slow}, (query_x,)).detach()
            torch.testing.assert_close(got.losses[place, step], of.criterion(output, query_y), **close)
            if query_y.is_floating_point():
                assert got.accuracies[place, step].isnan()
            else:
                assert got.accuracies[place, step] == (output.argmax(1) == query_y).double().mean()
            if step in (0, shown):
                torch.testing.assert_close((got.after if step else got.before)[place], output, **close)
        for name_, p in {**visited[shown], **slow}.items():
            torch.testing.assert_close(got.params[name_][place], p.detach(), **close)


def test_all_steps_are_shown_unless_told_otherwise():
    of, tasks = learner(), regression()
    everything, first = (evaluate(of, of.meta(), tasks, Execution(), 3, shown) for shown in (None, 0))
    assert everything.params == {}
    assert torch.equal(first.after, first.before)
    last = evaluate(of, of.meta(), tasks, Execution(), 3, 3, keep_params=True)
    assert torch.equal(everything.after, last.after)
    answer = functional_call(of.network, {name: p[0] for name, p in last.params.items()}, (tasks.query_x[0],))
    torch.testing.assert_close(answer, everything.after[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_unknown_targets_make_losses_of_nan_and_nothing_else(mode):
    of, tasks = learner(), regression()
    unknown = tasks._replace(query_y=torch.full_like(tasks.query_y, NAN))
    known, got = (evaluate(of, of.meta(), given, MODES[mode](), 2) for given in (tasks, unknown))
    assert got.losses.isnan().all()
    assert torch.equal(got.after, known.after)


SCORES = torch.tensor(
    [
        [0.1, 1.0, 2.0, 5.0, NAN],
        [0.4, 1.0, INF, 1.0, NAN],
        [0.2, 1.0, 1.0, NAN, INF],
        [0.3, 1.0, 3.0, 3.0, NAN],
    ]
)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_statistics_are_those_of_numpy(rows):
    """Where all is finite. Numpy sums in another order: a rounding a row, of numbers below ten."""
    scores = SCORES[:rows, :2]
    got, given = statistics(scores), scores.double().numpy()
    close = {"rtol": 0, "atol": rows * 10 * torch.finfo(torch.float64).eps}
    for ours, theirs in [
        (got.mean, given.mean(0)),
        (got.median, numpy.median(given, 0)),
        (got.p95, numpy.percentile(given, 95, 0)),
    ]:
        assert ours.dtype == torch.float64
        torch.testing.assert_close(ours, torch.from_numpy(theirs), **close)
    if rows == 1:
        assert got.ci95.isnan().all()
    else:
        torch.testing.assert_close(got.ci95, torch.from_numpy(1.96 * given.std(0, ddof=1) / rows**0.5), **close)


def test_a_constant_has_no_spread_and_is_not_rounded():
    got = statistics(torch.full((7, 1), 0.1, dtype=torch.float64))
    assert got.median == got.p95 == 0.1
    assert got.ci95 <= 0.1 * torch.finfo(torch.float64).eps


def test_many_tasks_against_numpy():
    scores = torch.randn(601, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = statistics(scores)
    for ours, share in ((got.median, 50), (got.p95, 95)):
        torch.testing.assert_close(ours, torch.from_numpy(numpy.percentile(scores.numpy(), share, 0)), rtol=0, atol=4e-15)


def test_what_is_no_number_counts_as_the_worst():
    """Sorted, with NaN as infinity: [1, 2, 3, inf], [1, 3, 5, inf] and only infinities. The 95th percentile lies at 2.85, between
    the last two, of which one is infinite; numpy and torch.quantile make NaN of that."""
    got = statistics(SCORES)
    assert got.median.tolist()[2:] == [2.5, 4.0, INF]
    assert got.p95.tolist()[2:] == [INF, INF, INF]
    assert got.mean[2] == INF
    assert got.mean[3:].isnan().all()
    assert got.ci95[2:].isnan().all()


def test_a_median_between_a_number_and_infinity_is_infinite():
    assert statistics(torch.tensor([[1.0], [INF]])).median == INF
    assert statistics(torch.tensor([[NAN], [1.0]])).p95 == INF
    assert statistics(torch.tensor([[INF], [INF]])).median == INF


def test_no_answer_is_the_worst_accuracy():
    got = statistics(torch.tensor([[1.0], [NAN], [0.5]]), worst=0.0)
    assert got.median == 0.5
    assert got.p95 == pytest.approx(0.95, abs=1e-15)


def test_diverged_tasks_are_counted_after_each_step():
    counted = diverged(SCORES, 2.0)
    assert counted.tolist() == [int(n) for n in (~(SCORES.numpy() <= 2.0)).sum(0)] == [0, 0, 2, 3, 4]
    assert diverged(torch.tensor([[2.0], [-INF]]), 2.0).tolist() == [0]  # as large as the limit is not beyond it
    assert diverged(torch.tensor([[NAN], [INF]]), INF).tolist() == [1]


def test_a_task_that_diverges_does_not_touch_the_others():
    """A rate of 1e200 spoils every task whose support has an error; one of perfect support stays where it was."""
    of, tasks = learner(SGD(1e200)), regression()
    answers = of.network(tasks.support_x[1]).detach()
    support_y = tasks.support_y.clone()
    support_y[1] = answers
    for make in MODES.values():
        losses = evaluate(of, of.meta(), tasks._replace(support_y=support_y), make(), 3).losses
        assert diverged(losses, 10.0)[1:].tolist() == [TASKS - 1] * 3
        torch.testing.assert_close(losses[1, 1:], losses[1, :1].expand(3), rtol=0, atol=0)


def tensors():
    gc.collect()
    return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_nothing_is_kept(mode):
    """The number of tensors after 20 evaluations and meta-iterations is that after 220."""
    of = learner(Adam(0.01, learn="tensor"), 2, HEAD)
    tasks, execution, unrolled, counts = type(regression())(*(part[:2] for part in regression())), MODES[mode](), Unrolled(), []
    optimizer = torch.optim.Adam(of.meta().values())
    for _ in range(2):
        for iteration in range(200 if counts else 20):
            step = unrolled(of, of.meta(), tasks, execution, iteration)
            for name, p in of.meta().items():
                p.grad = step.gradients[name]
            optimizer.step()
            told = evaluate(of, of.meta(), tasks, execution, 2)
        del step
        counts.append(tensors())
    assert told.losses.grad_fn is None
    assert counts[0] == counts[1]
