"""What the top of a Hessian's spectrum costs in gradients of the same net, beside three libraries, in one run: `make bench`."""

import time
from functools import partial
from itertools import count
from statistics import mean, median

import numpy as np
import pytest
import torch
from spectrum_peers import PEERS, PROBLEMS, descend, pyhessian, truth

import clock
from gradgrad.derivatives import HessianOperator
from gradgrad.eigensolvers import lanczos

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.parametrize("name", PROBLEMS)]
# One thread's processor seconds: hundreds of gradients last long enough for neighbours to come in.
interleaved = partial(clock.interleaved, clock=time.process_time)
seconds = partial(clock.seconds, clock=time.process_time)
GRADIENTS = 30  # that take turns with a solver: about as long as it
ASKED = {1: 20, 5: 45}  # gradients at an eigenvalue error of 1e-3, by the number of eigenvalues
REPEATS = 5  # measurements in a row at each place
SEEDS = count()  # every call begins elsewhere, as the peers do


def hessian(problem):
    return HessianOperator(problem.loss, dict(problem.net.named_parameters()), [problem.batch])


def ours(problem, k):
    return lanczos(hessian(problem), k, tol=1e-2, seed=next(SEEDS)).eigenvalues.tolist()


def trained(name):
    make, steps = PROBLEMS[name]
    problem = make()
    descend(problem, steps)
    return problem


def error(values, expected):
    return np.abs(np.sort(values)[::-1] / expected - 1).max()


@pytest.mark.parametrize("k", ASKED)
def test_the_top_in_gradients(name, k):
    problem = trained(name)
    expected, found, jobs = truth(problem, k), {}, {}
    for who, solve in {**PEERS, "gradgrad": ours}.items():
        try:
            found[who] = [solve(problem, k)]
        except pytest.skip.Exception as absent:
            print(f"\n{who}: {absent}", end="")
            continue
        jobs[who] = lambda who=who, solve=solve: found[who].append(solve(problem, k))
    gradients = lambda: [problem.gradient() for _ in range(GRADIENTS)]  # noqa: E731
    first, *spent = interleaved([gradients, *jobs.values()], rounds=5)
    print(f"\n{name}, loss {problem.loss(problem.batch):.2f}, top {k}: {', '.join(f'{value:.3g}' for value in expected)}")
    for who, job in zip(jobs, spent, strict=True):
        errors = [error(values, expected) for values in found[who]]
        print(f"{who:28} {GRADIENTS * job / first:8.1f} gradients   error {median(errors):.0e}, at worst {max(errors):.0e}")
    print(
        f"asked: at most {ASKED[k]} gradients at error 1e-3; got: {GRADIENTS * spent[-1] / first:.1f} at {median(errors):.0e}, "
        f"{sum(found > 1e-3 for found in errors)} of {len(errors)} starts worse"
    )


def test_from_many_starts(name):
    """How good an answer is at which tolerance: a small residual proves an eigenpair, not that it is the top one."""
    problem = trained(name)
    print(f"\n{name}: 20 random starts each")
    for k in ASKED:
        expected = truth(problem, k)
        for tol in (1e-1, 1e-2, 1e-3):
            results = [lanczos(hessian(problem), k, tol=tol, seed=seed) for seed in range(20)]
            errors = [error(result.eigenvalues, expected) for result in results]
            bad = sum(found > 1e-3 for found in errors)
            spent = mean(result.matvecs for result in results)
            print(f"top {k}, tol {tol:.0e}: {spent:.1f} products, error {median(errors):.0e}, {bad} of 20 worse than 1e-3")


def test_tracking(name):
    """Measurements every 10 steps of SGD; each makes its operator anew and begins at the old vector and 0.3 of a random one."""
    problem, generator = trained(name), torch.Generator().manual_seed(0)
    vector = lanczos(hessian(problem), 1, tol=1e-3).eigenvectors[:, 0]  # as the callback begins
    warm, theirs, products, errors = [], [], [], []

    def measure():
        other = torch.randn(len(vector), generator=generator)
        return lanczos(hessian(problem), 1, tol=1e-2, start=vector + 0.3 * other / other.norm())

    for _ in range(30):
        descend(problem, 10)
        results = [measure()]  # the first finds the caches full of other things, which a gradient in a row does not
        spent = seconds(lambda results=results: results.extend(measure() for _ in range(REPEATS))) / REPEATS
        gradient = seconds(lambda: [problem.gradient() for _ in range(GRADIENTS)]) / GRADIENTS
        warm.append(spent / gradient)
        theirs.append(seconds(pyhessian, problem, 1) / gradient)
        vector = results[0].eigenvectors[:, 0]
        products += [result.matvecs for result in results]
        expected = truth(problem, 1, near=vector)
        errors += [error(result.eigenvalues, expected) for result in results]
    bad = sum(found > 2e-2 for found in errors)
    print(f"\n{name}, {len(errors)} measurements at residual 1e-2: {mean(products):.1f} products, {bad} worse than 2 %; ", end="")
    print(f"PyHessian anew {median(theirs):.1f} gradients")
    print(f"asked: at most 6 gradients for a measurement; got: {median(warm):.1f}, mean {mean(warm):.1f}")


def test_products(name):
    problem, width, parts = trained(name), 8, 8
    x, y = problem.batch
    cut = list(zip(x.chunk(parts), y.chunk(parts), strict=True))
    kept = hessian(problem)
    split = HessianOperator(problem.loss, dict(problem.net.named_parameters()), cut)
    block = torch.randn(kept.size, width)

    def held():
        with kept.held():
            for column in block.T:
                kept.matvec(column)

    jobs = {
        "gradient": lambda: [problem.gradient() for _ in range(width)],
        "product": lambda: [kept.matvec(column) for column in block.T],
        "product while held": held,
        "one at a time": lambda: [split.matvec(column) for column in block.T],
        "block": lambda: split.matmat(block),
    }
    times = dict(zip(jobs, interleaved(list(jobs.values()), 21), strict=True))
    in_gradients = {job: spent / times["gradient"] for job, spent in times.items()}
    print(f"\n{name}: a product in gradients, {parts} batches and {width} vectors the last two: ", end="")
    print(", ".join(f"{job} {spent:.2f}" for job, spent in in_gradients.items()))
    print(f"asked: a product on a kept graph at most 1.7 gradients; got: {in_gradients['product']:.2f}")
    print(f"asked: a block at least 1.5 times as fast as one at a time; got: {times['one at a time'] / times['block']:.2f}")
