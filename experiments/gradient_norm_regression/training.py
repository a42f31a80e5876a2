"""Many small networks trained as one: every tensor has a leading axis of models, and `torch.func` maps over it.

Model m has the split ``split[m]`` and the coefficient ``coefficient[m]``. Models of one split begin at the same weights and see
the same batches. Adam is elementwise, so that `torch.optim.Adam` on stacked tensors is Adam on each model.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from objectives import Network, Objective, Params
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.benchmark import Timer

from gradgrad.networks import MLP


class Parts(NamedTuple):
    """S splits of equal size, standardized by the statistics of the rows that are trained on.

    Attributes:
        x: inputs trained on, ``(S, N, F)``.
        y: targets trained on, ``(S, N, 1)``.
        x_test: inputs predicted, ``(S, M, F)``.
        y_test: their targets, standardized by the same statistics, ``(S, M, 1)``.
        scale: standard deviation of the targets trained on, in the target's unit, ``(S,)``.
    """

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    scale: Tensor


def standardized(rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]], dtype: torch.dtype) -> Parts:
    """Standardize the (x, y, x_test, y_test) of each split by its own x and y; a constant column becomes 0."""
    columns: list[tuple[np.ndarray, ...]] = []
    for x, y, x_test, y_test in rows:
        inputs, targets = StandardScaler().fit(x), StandardScaler().fit(y[:, None])
        scaled = (
            inputs.transform(x),
            targets.transform(y[:, None]),
            inputs.transform(x_test),
            targets.transform(y_test[:, None]),
        )
        columns.append((*scaled, targets.scale_[0]))
    return Parts(*(torch.as_tensor(np.stack(column), dtype=dtype) for column in zip(*columns, strict=True)))


class Recipe(NamedTuple):
    """How every arm is trained.

    Attributes:
        hidden: width of each hidden layer of tanh units.
        lr: Adam's step size at the first step; it falls as a cosine to 0 at the last one.
        epochs: passes over the training rows.
        batch: rows per step; the last batch of an epoch has what remains.
    """

    hidden: Sequence[int]
    lr: float
    epochs: int
    batch: int


def network(hidden: Sequence[int], features: int) -> Network:
    """Build gradgrad's MLP as a pure function of its parameters."""
    module = MLP(features, 1, hidden, "tanh")
    return lambda params, x: functional_call(module, params, (x,))


def initial(hidden: Sequence[int], features: int, seeds: Sequence[int], dtype: torch.dtype) -> Params:
    """Draw PyTorch's initial weights of one model per seed; every tensor is ``(S, ...)``."""
    modules = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            modules.append(MLP(features, 1, hidden, "tanh").to(dtype))
    params, _ = stack_module_state(modules)  # type: ignore[arg-type]
    return {name: p.detach() for name, p in params.items()}


class Run:
    """Models of one arm in training.

    Args:
        objective: the arm's.
        recipe: shared by all arms.
        parts: S splits.
        seeds: S numbers; each fixes its split's initial weights and batches.
        split: S' numbers below S, one per model.
        coefficient: ``(S',)`` or ``(S', 2)``.
    """

    def __init__(
        self, objective: Objective, recipe: Recipe, parts: Parts, seeds: Sequence[int], split: Tensor, coefficient: Tensor
    ) -> None:
        self.recipe, self.parts, self.split, self.coefficient = recipe, parts, split, coefficient.to(parts.x.dtype)
        features = parts.x.shape[2]
        self.network = network(recipe.hidden, features)
        start = initial(recipe.hidden, features, seeds, parts.x.dtype)
        self.params: Params = {name: p[split].clone().requires_grad_() for name, p in start.items()}
        self.orders = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.starts = range(0, parts.x.shape[1], recipe.batch)
        self.optimizer = torch.optim.Adam(self.params.values(), lr=recipe.lr, fused=True)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, recipe.epochs * len(self.starts))

        def of_one_model(params: Params, x: Tensor, y: Tensor, coefficient: Tensor) -> Tensor:
            return objective(self.network, params, x, y, coefficient)

        self.gradient: Callable[..., Params] = vmap(grad(of_one_model))

    def step(self, rows: Tensor) -> None:
        """Step on one batch; ``rows`` are row numbers, ``(models, B)``."""
        of = self.split[:, None]
        params = {name: p.detach() for name, p in self.params.items()}
        for name, g in self.gradient(params, self.parts.x[of, rows], self.parts.y[of, rows], self.coefficient).items():
            self.params[name].grad = g
        self.optimizer.step()
        self.scheduler.step()

    def fit(self) -> "Run":
        """Train to the last epoch."""
        for _ in range(self.recipe.epochs):
            order = torch.stack([torch.randperm(self.parts.x.shape[1], generator=g) for g in self.orders])[self.split]
            for start in self.starts:
                self.step(order[:, start : start + self.recipe.batch])
        return self

    def rmse(self) -> Tensor:
        """Root mean squared error of every model on its split's other part, in the target's unit."""
        with torch.no_grad():
            predicted = vmap(self.network)(dict(self.params), self.parts.x_test[self.split])
            error = (predicted - self.parts.y_test[self.split]).square().mean((1, 2)).sqrt()
        return error * self.parts.scale[self.split]


def step_ratios(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Time a step of each arm in steps of the arm ``none``: medians of interleaved rounds, same number of models, full batch."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            rows = torch.arange(min(run.recipe.batch, run.parts.x.shape[1])).expand(len(run.split), -1)
            timed = Timer("run.step(rows)", globals={"run": run, "rows": rows}).timeit(3).mean
            if number:  # the first round warms up
                seconds[name].append(timed)
    return {name: float(np.median(times) / np.median(seconds["none"])) for name, times in seconds.items()}
