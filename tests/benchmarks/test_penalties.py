"""What a penalized step costs in plain steps, beside SAM as an optimizer, in one run: `make bench`."""

import pytest
import torch
from pytorch_optimizer import SAM
from torch import nn

from clock import interleaved
from gradgrad.batches import Batch
from gradgrad.modules.supervised import Supervised
from gradgrad.networks import MLP
from gradgrad.penalties import GradientNormPenalty, InputGradientPenalty, penalize

pytestmark = pytest.mark.usefixtures("one_thread")
# width, hidden layers, batch, rounds, repeats in a round
SIZES = {"50x1": (50, 1, 128, 21, 20), "256x3": (256, 3, 512, 11, 3), "1024x3": (1024, 3, 256, 9, 1)}
GOALS = "goals: exact at most 3.3; finite_difference and sam at most 2.3 from width 256 on"
OURS = {
    "exact": lambda: GradientNormPenalty(0.1),
    "finite_difference": lambda: GradientNormPenalty(0.1, method="finite_difference"),
    "sam": lambda: GradientNormPenalty(1.0, method="sam"),
    "input gradient": lambda: InputGradientPenalty(0.1),
}


class WrappedSAM:
    """SAM the way its first PyTorch port does it: the optimizer climbs, the user's loop differentiates again, it comes back."""

    def __init__(self, params, radius=0.05):
        self.params, self.radius = list(params), radius
        self.base = torch.optim.SGD(self.params, lr=1e-4)

    @torch.no_grad()
    def climb(self):
        norm = torch.stack([p.grad.norm() for p in self.params]).norm()
        self.kept = [p.clone() for p in self.params]
        for p in self.params:
            p.add_(p.grad * (self.radius / (norm + 1e-12)))
        self.base.zero_grad()

    @torch.no_grad()
    def descend(self):
        for p, kept in zip(self.params, self.kept, strict=True):
            p.copy_(kept)
        self.base.step()
        self.base.zero_grad()


def problem(width, layers, rows, activation="tanh"):
    torch.manual_seed(0)
    module = Supervised(MLP(10, 1, [width] * layers, activation), nn.MSELoss())
    return module, Batch(torch.randn(rows, 10), torch.randn(rows, 1))


def stepper(module, objective):
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)

    def step():
        objective().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peers(width, layers, rows, activation):
    module, batch = problem(width, layers, rows, activation)
    optimizer = WrappedSAM(module.parameters())

    def wrapped():
        module.loss(batch).backward()
        optimizer.climb()
        module.loss(batch).backward()
        optimizer.descend()

    yield "SAM as a wrapper", wrapped
    other, _ = problem(width, layers, rows, activation)
    theirs = SAM(other.parameters(), torch.optim.SGD, rho=0.05, lr=1e-4)

    def installed():
        other.loss(batch).backward()
        theirs.first_step(zero_grad=True)
        other.loss(batch).backward()
        theirs.second_step(zero_grad=True)

    yield "pytorch_optimizer's SAM", installed


def ratios(jobs, rounds, repeats):
    times = dict(zip(jobs, interleaved(list(jobs.values()), rounds, repeats), strict=True))
    return {name: time / times["plain"] for name, time in times.items()}


def told(head, found):
    print(f"\n{head}: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in found.items()) + " plain steps")


@pytest.mark.parametrize("activation", ["tanh", "silu"])
@pytest.mark.parametrize("size", SIZES)
def test_a_penalized_step_in_plain_steps(size, activation):
    width, layers, rows, rounds, repeats = SIZES[size]
    module, batch = problem(width, layers, rows, activation)
    jobs = {"plain": stepper(module, lambda: module.loss(batch))}
    for name, make in OURS.items():
        jobs[name] = penalized_stepper(module, batch, make())
    jobs.update(peers(width, layers, rows, activation))
    told(f"{size} {activation}, batch {rows} ({GOALS})", ratios(jobs, rounds, repeats))


def penalized_stepper(module, batch, penalty):
    return stepper(module, lambda: penalize(module, batch, [penalty]).total)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # what torch.compile imports, torch 2.13
@pytest.mark.parametrize("size", SIZES)
def test_where_compiling_wins(size):
    """The inner gradient inside the compiled region: the one form that PyTorch 2.13 compiles and differentiates again."""
    width, layers, rows, rounds, repeats = SIZES[size]
    module, batch = problem(width, layers, rows)
    names = list(dict(module.named_parameters()))

    def penalized(values):
        def loss(*inner):
            output = torch.func.functional_call(module, dict(zip(names, inner, strict=True)), (batch.x,))
            return nn.functional.mse_loss(output, batch.y)

        gradients, value = torch.func.grad_and_value(loss, argnums=tuple(range(len(names))))(*values)
        return value + 0.1 * torch.stack([g.square().sum() for g in gradients]).sum()

    torch._dynamo.reset()
    compiled = torch.compile(penalized)
    params = list(module.parameters())
    a, b = (torch.autograd.grad(f(params), params) for f in (penalized, compiled))
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)
    jobs = {
        "plain": stepper(module, lambda: module.loss(batch)),
        "exact": penalized_stepper(module, batch, GradientNormPenalty(0.1)),
        "torch.func": stepper(module, lambda: penalized(params)),
        "torch.func, compiled": stepper(module, lambda: compiled(params)),
    }
    told(f"{size}, batch {rows}", ratios(jobs, rounds, repeats))
