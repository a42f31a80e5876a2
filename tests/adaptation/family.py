"""Tiny learners of every kind, and tasks for them; a new mode inherits all of them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

from gradgrad.adaptation import SGD, Adam, Execution, Learner, Momentum, Unrolled
from gradgrad.batches import TaskBatch

TASKS = 5  # two and two and one, in chunks of two


def random(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def regression(count=TASKS, features=2, seed=0):
    """Tasks whose slope and size differ, so that their inner gradients do."""
    support_x, query_x = random(count, 4, features, seed=seed), random(count, 6, features, seed=seed + 1)
    slope, offset = 2 * random(count, features, 1, seed=seed + 2), random(count, 1, 1, seed=seed + 3)
    return TaskBatch(support_x, torch.sin(support_x @ slope) + offset, query_x, torch.sin(query_x @ slope) + offset)


def classification():
    tasks = regression()
    return TaskBatch(
        tasks.support_x,
        torch.arange(4).remainder(3).expand(TASKS, 4),
        tasks.query_x,
        torch.arange(6).remainder(3).expand(TASKS, 6),
    )


class TwoLayers(nn.Module):
    """Body, tanh, head: smooth."""

    def __init__(self, features=2, outputs=1):
        super().__init__()
        self.body, self.head = nn.Linear(features, 4), nn.Linear(4, outputs)

    def forward(self, x):
        return self.head(self.body(x).tanh())


class WithContext(nn.Module):
    """CAVIA: a vector of further inputs that adapts from zero and is not meta-learned."""

    def __init__(self):
        super().__init__()
        self.context = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.network = TwoLayers(4)

    def forward(self, x):
        return self.network(torch.cat([x, self.context.expand(len(x), 2)], 1))


class Unused(TwoLayers):
    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.ones(2, 3))


def learner(optimizer=None, steps=1, names=None, network=TwoLayers, criterion=nn.functional.mse_loss, **settings):
    """Build one in float64, with learned rates that differ among one another."""
    torch.manual_seed(0)
    net, optimizer = network().double(), SGD(0.2) if optimizer is None else optimizer
    names = [name for name, _ in net.named_parameters()] if names is None else names
    optimizer.prepare({name: p for name, p in net.named_parameters() if name in names}, steps)
    with torch.no_grad():
        for seed, rate in enumerate(optimizer.parameters()):
            rate.mul_(1 + 0.3 * random(*rate.shape, seed=seed).tanh())
    return Learner(net, criterion, optimizer, tuple(names), steps, **settings)


class Variant(NamedTuple):
    """A way to differentiate through the inner loop, and what a hand-written one has to know of it."""

    learner: Learner
    settings: Mapping[str, Any] = MappingProxyType({})
    iteration: int = 0
    first_order: bool = False
    weights: tuple[float, ...] | None = None
    tasks: TaskBatch = regression()

    def unrolled(self, **more):
        return Unrolled(**self.settings, **more)


def cross_entropy_variant():
    made = learner(SGD(0.5), 2, network=lambda: TwoLayers(outputs=3), criterion=nn.functional.cross_entropy)
    return Variant(made, tasks=classification())


HEAD, BODY = ("head.weight", "head.bias"), ("body.weight", "body.bias")
VARIANTS = {
    "MAML, 1 step": lambda: Variant(learner()),
    "MAML, 3 steps": lambda: Variant(learner(steps=3)),
    "first order": lambda: Variant(learner(steps=3), {"first_order": True}, first_order=True),
    "ANIL": lambda: Variant(learner(steps=2, names=HEAD)),
    "BOIL": lambda: Variant(learner(steps=2, names=BODY)),
    "CAVIA": lambda: Variant(learner(SGD(1.0), 2, ("context",), WithContext)),
    "Meta-SGD": lambda: Variant(learner(SGD(0.2, "element"), 2)),
    "rates by tensor and step": lambda: Variant(learner(SGD(0.2, "tensor", per_step=True), 3)),
    "rates by element and step": lambda: Variant(learner(Momentum(0.1, learn="element", per_step=True), 2, HEAD)),
    "Adam": lambda: Variant(learner(Adam(0.1, eps=1e-2, learn="tensor"), 3)),  # a large eps, so that it is smooth
    "momentum": lambda: Variant(learner(Momentum(0.1, learn="tensor"), 3)),
    "Nesterov": lambda: Variant(learner(Momentum(0.1, nesterov=True), 3)),
    "clipped": lambda: Variant(learner(SGD(0.3, clip_norm=1.0), 3)),
    "multi-step loss": lambda: Variant(learner(steps=3), {"multi_step_iterations": 10}, 4, weights=(0.2, 0.2, 0.6)),
    "first order at first": lambda: Variant(learner(steps=2), {"first_order_iterations": 5}, 4, first_order=True),
    "second order then": lambda: Variant(learner(steps=2), {"first_order_iterations": 5}, 5),
    "unused parameter": lambda: Variant(learner(SGD(0.2, "tensor"), 2, network=Unused)),
    "cross-entropy": cross_entropy_variant,
}
MODES = {
    "vmap": lambda: Execution("vmap"),
    "chunked": lambda: Execution("chunked", chunk_size=2),
    "loop": lambda: Execution("loop"),
}
