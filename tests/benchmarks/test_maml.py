"""What a MAML meta-iteration costs beside plain loops, higher, TorchOpt and JAX, in one run: `make bench`."""

import math
import time
from itertools import cycle

import numpy as np
import pytest
import torch
from maml_peers import PEERS
from torch import nn

from clock import interleaved
from gradgrad.adaptation import SGD, Execution, Learner, Unrolled
from gradgrad.batches import TaskBatch
from gradgrad.networks import MLP

pytestmark = pytest.mark.usefixtures("one_thread")
TASKS, POINTS = 25, 10
ROUNDS = {1: (15, 10), 5: (9, 5)}  # inner steps: rounds, repeats in a round


def ours(mode, compile):
    """Give a function of (weights, batches, steps), as each of PEERS is."""

    def make(weights, batches, steps):
        network = MLP(1, 1, [40, 40], "relu")
        names = dict(network.named_parameters())
        network.load_state_dict(dict(zip(names, weights, strict=True)))
        learner = Learner(network, nn.MSELoss(), SGD(lr=0.01), tuple(names), steps)
        meta, execution, meta_gradient = learner.meta(), Execution(mode, compile=compile), Unrolled()
        adam, upcoming = torch.optim.Adam(meta.values(), lr=1e-3, fused=True), cycle(TaskBatch(*batch) for batch in batches)

        def iterate():
            found = meta_gradient(learner, meta, next(upcoming), execution, 0)
            for name, param in meta.items():
                param.grad = found.gradients[name]
            adam.step()
            return list(meta.values())

        return iterate

    return make


OURS = {
    "gradgrad loop": lambda *problem: ours("loop", False)(*problem),
    "gradgrad vmap": lambda *problem: ours("vmap", False)(*problem),
    "gradgrad vmap, compiled": lambda *problem: ours("vmap", True)(*problem),
}
JOBS = {**PEERS, **OURS}


def sinusoids():
    """Draw support and query points of y = A sin(x - phi): A in [0.1, 5], phi in [0, pi], x in [-5, 5]."""
    amplitude = 0.1 + 4.9 * torch.rand(TASKS, 1, 1)
    phase = math.pi * torch.rand(TASKS, 1, 1)
    support_x, query_x = (10 * torch.rand(TASKS, POINTS, 1) - 5 for _ in range(2))
    return support_x, amplitude * torch.sin(support_x - phase), query_x, amplitude * torch.sin(query_x - phase)


def problem(steps):
    torch.manual_seed(0)
    weights = [p.detach() for p in MLP(1, 1, [40, 40], "relu").parameters()]
    return weights, [sinusoids() for _ in range(3)], steps


def as_arrays(weights):
    return [w.detach().numpy().copy() if isinstance(w, torch.Tensor) else np.array(w) for w in weights]


@pytest.mark.parametrize("steps", ROUNDS)
@pytest.mark.parametrize("name", [name for name in JOBS if name != "plain loop"])
def test_all_take_the_same_meta_step(name, steps):
    """All do the same work: three meta-iterations, each on other tasks, end in the same weights.

    A relative error r in a gradient moves a weight by about META_RATE * r. Float32 gives r below 2e-4 in the worst component
    (against float64), and rounding weights below 1 adds 6e-8 a step, so right ones differ by less than 5e-7. First-order
    gradients differ by 2e-3, an inner rate 1 % off by 1.7e-4, but only from the second iteration on: the first step of Adam
    is the sign of the gradient. A constant factor in the loss stays unseen.
    """
    reference, other = PEERS["plain loop"](*problem(steps)), JOBS[name](*problem(steps))
    for _ in range(3):
        for expected, got in zip(as_arrays(reference()), as_arrays(other()), strict=True):
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def cores(job, repeats):
    """Give processor seconds per second: 1 is one thread."""
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        job()
    return (time.process_time() - processor) / (time.perf_counter() - wall)


@pytest.mark.parametrize("steps", ROUNDS)
def test_a_meta_iteration_in_plain_loops(steps):
    jobs = {}
    for name, make in JOBS.items():
        try:
            jobs[name] = make(*problem(steps))
        except pytest.skip.Exception as absent:
            print(f"\n{name}: {absent}", end="")
    rounds, repeats = ROUNDS[steps]
    times = dict(zip(jobs, interleaved(list(jobs.values()), rounds, repeats), strict=True))
    print(f"\n{TASKS} tasks, {POINTS} + {POINTS} points, inner steps {steps}: ms, plain loops, cores used")
    for name, spent in times.items():
        used = cores(jobs[name], repeats)
        print(f"{name:24} {1e3 * spent:8.2f} {spent / times['plain loop']:8.3f} {used:6.2f}")
