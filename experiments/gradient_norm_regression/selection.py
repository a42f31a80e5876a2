"""One setting (data set and number of rows): choose every arm's coefficient inside each split, refit, test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from objectives import objectives
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from torch import Tensor
from training import Parts, Recipe, Run, standardized, step_ratios

from gradgrad.datamodules import TabularRegression

INNER = 0.2  # share of the training rows, the last ones, that chooses the coefficient; the rule of the UCI benchmark's code
TIMING_ROUNDS = 15

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, y, x_test, y_test in their own units


@dataclass
class Setting:
    """A data set, how much of it is trained on, and how long.

    Args:
        set: a name that TabularRegression takes.
        regime: name of the number of rows, for the results.
        rows: training rows, the first ones in the order of the split; None means all.
        batch: rows per step.
        micro_batch: rows per micro-batch in the arm parameter_gradient_micro.
        epochs: passes over the training rows.
    """

    set: str
    regime: str
    rows: int | None
    batch: int
    micro_batch: int
    epochs: int


def read(setting: Setting, splits: int) -> list[Split]:
    """Read splits 0 to ``splits - 1``; the training rows are the datamodule's training and validation part, in its order."""
    found = []
    for split in range(splits):
        data = TabularRegression(setting.set, split=split)
        parts, x, y = data.parts, data.table.x, data.table.y
        train = np.concatenate([parts["training"], parts["validation"]])[: setting.rows]
        found.append((x[train], y[train], x[parts["test"]], y[parts["test"]]))
    return found


def measure(
    setting: Setting, splits: Sequence[Split], grids: Mapping[str, Sequence[float]], hidden: Sequence[int], lr: float
) -> pd.DataFrame:
    """Give one row of results per arm and split.

    Splits of unequal sizes are trained in groups of equal size, so that every model's last batch is exactly its own.
    """
    torch.set_num_threads(1)  # the settings share the cores; a batched step of this size gains little from two
    recipe = Recipe(hidden, lr, setting.epochs, setting.batch)
    sizes = pd.Series([(len(y), len(y_test)) for _, y, _, y_test in splits])
    frames = []
    for _, group in sizes.groupby(sizes):
        numbers = [int(number) for number in group.index]
        frames.append(group_results(setting, [splits[n] for n in numbers], numbers, grids, recipe))
    frames.append(baselines(splits))
    return pd.concat(frames).assign(set=setting.set, regime=setting.regime)


def group_results(
    setting: Setting, splits: Sequence[Split], numbers: Sequence[int], grids: Mapping[str, Sequence[float]], recipe: Recipe
) -> pd.DataFrame:
    """Train all arms on splits of equal size; a split's number is also its seed."""
    cut = round((1 - INNER) * len(splits[0][1]))
    inner = standardized([(x[:cut], y[:cut], x[cut:], y[cut:]) for x, y, _, _ in splits], torch.float32)
    full = standardized(splits, torch.float32)
    objective = objectives(setting.micro_batch)
    count = len(splits)

    def train(arm: str, parts: Parts, split: Tensor, coefficient: Tensor) -> Tensor:
        return Run(objective[arm], recipe, parts, numbers, split, coefficient).fit().rmse()

    every, zero = torch.arange(count), torch.zeros(count)
    inside = {"none": train("none", inner, every, zero)}  # validation RMSE at the chosen coefficient
    tested = {"none": train("none", full, every, zero)}
    chosen = {"none": zero}
    for arm, grid in grids.items():
        base = "l2" if arm == "l2_parameter_gradient" else "none"  # what a coefficient of 0 is
        candidates = torch.tensor([0.0, *grid])

        def pair(split: Tensor, coefficient: Tensor, base: str = base) -> Tensor:
            """Join the l2 coefficient that the split chose already; nothing to join without one."""
            return torch.stack([chosen["l2"][split], coefficient], 1) if base == "l2" else coefficient

        split = every.repeat_interleave(len(grid))
        errors = train(arm, inner, split, pair(split, candidates[1:].repeat(count))).view(count, -1)
        inside[arm], index = torch.cat([inside[base][:, None], errors.nan_to_num(torch.inf)], 1).min(1)
        chosen[arm], tested[arm] = candidates[index], tested[base].clone()
        if len(penalized := index.nonzero()[:, 0]):
            tested[arm][penalized] = train(arm, full, penalized, pair(penalized, chosen[arm][penalized]))

    runs = {}
    for arm in ("none", *grids):
        some = torch.full((count, 2) if arm == "l2_parameter_gradient" else (count,), 0.01)
        runs[arm] = Run(objective[arm], recipe, full, numbers, every, some)
    ratios = step_ratios(runs, TIMING_ROUNDS)
    frames = [
        pd.DataFrame(
            {
                "arm": arm,
                "split": numbers,
                "coefficient": chosen[arm].numpy(),
                "l2_coefficient": (chosen["l2"] if arm == "l2_parameter_gradient" else zero).numpy(),
                "rmse": tested[arm].numpy(),
                "step_ratio": ratios[arm],
            }
        )
        for arm in tested
    ]
    return pd.concat(frames)


def baselines(splits: Sequence[Split]) -> pd.DataFrame:
    """Fit least squares and a random forest of scikit-learn's defaults; neither has anything to choose."""
    rows = []
    for number, (x, y, x_test, y_test) in enumerate(splits):
        for arm, model in [("least_squares", LinearRegression()), ("random_forest", RandomForestRegressor(random_state=number))]:
            error = model.fit(x, y).predict(x_test) - y_test
            rows.append({"arm": arm, "split": number, "rmse": np.sqrt(np.mean(error**2))})
    return pd.DataFrame(rows)
