"""Groups of runs as numbers: means over seeds with intervals, and paired differences from a baseline with tests."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

Group = tuple[str, ...]
Values = npt.NDArray[np.float64]

LEVEL = 0.95
COUNTS = ("pairs", "wins", "losses", "ties")
RESAMPLES = 9999  # scipy's default for the bootstrap
CORRECTIONS = ("holm", "holm-sidak", "bonferroni", "sidak", "simes-hochberg", "hommel", "fdr_bh", "fdr_by", "none")
# Differences that vary by less than this many units of rounding do not vary; scipy warns below 40 (10 eps, relative to a mean
# of at most twice the values).
ROUNDING = 64 * np.finfo(float).eps


class Method(NamedTuple):
    """How groups are compared.

    Attributes:
        interval: ``t`` (Student) or ``bootstrap`` (BCa).
        test: ``t`` or ``wilcoxon``, both paired and two-sided.
        correction: of :data:`CORRECTIONS`; statsmodels' names.
        maximize: whether higher is better.
    """

    interval: str = "t"
    test: str = "t"
    correction: str = "holm"
    maximize: bool = False


class Estimate(NamedTuple):
    """A mean and how well it is known; NaN where one value tells nothing of that.

    Attributes:
        mean: over the values.
        error: standard error of the mean.
        low: of the interval at :data:`LEVEL`.
        high: of the same.
    """

    mean: float
    error: float
    low: float
    high: float


def estimate(values: Values, interval: str) -> Estimate:
    """Estimate a mean.

    Args:
        values: at least one.
        interval: ``t`` or ``bootstrap``.

    Returns:
        The mean, its standard error and its interval, which is a point where the values do not vary.
    """
    from scipy import stats

    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, np.nan, np.nan, np.nan)
    if _constant(values, values):
        return Estimate(mean, 0.0, mean, mean)
    error = float(stats.sem(values))
    if interval == "t":
        low, high = stats.t.interval(LEVEL, len(values) - 1, loc=mean, scale=error)
    else:  # seeded, so that the same runs give the same table
        generator = np.random.default_rng(0)
        drawn = stats.bootstrap((values,), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, random_state=generator)
        low, high = drawn.confidence_interval
    return Estimate(mean, error, float(low), float(high))


def paired_test(values: Values, baseline: Values, test: str) -> float:
    """Test whether paired values differ.

    Args:
        values: of a group.
        baseline: the values that they are paired with.
        test: ``t`` or ``wilcoxon``.

    Returns:
        The two-sided p; NaN where there is none: one pair, the same values, or (for t) differences that do not vary.
    """
    from scipy import stats

    differences = values - baseline
    if len(values) < 2 or not differences.any() or (test == "t" and _constant(differences, values, baseline)):
        return float("nan")
    if test == "t":
        return float(stats.ttest_rel(values, baseline).pvalue)
    return float(stats.wilcoxon(values, baseline).pvalue)


def corrected(p_values: "pd.Series[float]", correction: str) -> "pd.Series[float]":
    """Correct for the number of comparisons.

    Args:
        p_values: NaN where there was no test; those do not count.
        correction: of :data:`CORRECTIONS`.

    Returns:
        The corrected p, NaN where it was.
    """
    from statsmodels.stats.multitest import multipletests

    tested = p_values.dropna()
    if tested.empty or correction == "none":
        return p_values
    return pd.Series(multipletests(tested, method=correction)[1], tested.index).reindex(p_values.index)


def by_group(runs: pd.DataFrame) -> dict[Group, pd.DataFrame]:
    """Part runs into groups.

    Args:
        runs: with column ``group``.

    Returns:
        The runs of each group, in the order in which the groups come.
    """
    return {cast(Group, group): part for group, part in runs.groupby("group", sort=False)}


def compare_groups(runs: pd.DataFrame, baselines: Mapping[Group, Group], method: Method) -> pd.DataFrame:
    """Aggregate runs over seeds, and compare groups with their baselines.

    Args:
        runs: with columns ``group``, ``pair`` and ``value``; each pair once per group.
        baselines: of each group that has one, itself included; empty where nothing is compared.
        method: of the comparison.

    Returns:
        One row per group, in numerical order: ``group, n, mean, error, low, high, best``, and with baselines ``pairs, difference,
        difference_low, difference_high, wins, losses, ties, p, p_corrected``. Differences are group minus baseline.
    """
    values = {group: part.set_index("pair")["value"] for group, part in by_group(runs).items()}
    groups = sorted(values, key=_order)
    rows = [
        {"group": group, "n": len(values[group]), **estimate(values[group].to_numpy(float), method.interval)._asdict()}
        for group in groups
    ]
    table = pd.DataFrame(rows)
    strata = [baselines.get(group, ()) for group in groups] if baselines else [()] * len(groups)
    means = table["mean"].groupby(pd.Series(strata, table.index))
    table["best"] = table["mean"] == means.transform("max" if method.maximize else "min")
    if baselines:
        paired = [_paired(values, group, baselines.get(group), method) for group in groups]
        table = table.join(pd.DataFrame(paired, table.index)).astype(dict.fromkeys(COUNTS, "Int64"))
        table["p_corrected"] = corrected(table["p"], method.correction)
    return table


def _paired(
    values: Mapping[Group, "pd.Series[Any]"], group: Group, baseline: Group | None, method: Method
) -> dict[str, float | None]:
    """Compare one group with its baseline, at the pairs that both have."""
    none = {**dict.fromkeys(("difference", "difference_low", "difference_high", "p"), np.nan), **dict.fromkeys(COUNTS)}
    if baseline is None or baseline == group:
        return none
    both = pd.concat([values[group], values[baseline]], axis=1, join="inner").to_numpy(float)
    if not len(both):
        return {**none, "pairs": 0}
    own, other = both[:, 0], both[:, 1]
    differences = own - other
    if _constant(differences, own, other):
        differences = np.full_like(differences, differences.mean())
    found = estimate(differences, method.interval)
    better = own > other if method.maximize else own < other
    ties = own == other
    return {
        "pairs": len(both),
        "difference": found.mean,
        "difference_low": found.low,
        "difference_high": found.high,
        "wins": int(better.sum()),
        "losses": int((~better & ~ties).sum()),
        "ties": int(ties.sum()),
        "p": paired_test(own, other, method.test),
    }


def _constant(values: Values, *sources: Values) -> bool:
    """Whether values vary by no more than the rounding of what they were computed from."""
    return bool(np.ptp(values) <= ROUNDING * max(np.abs(source).max() for source in sources))


def _order(group: Group) -> list[tuple[int, float, str]]:
    """Sort numbers as numbers, before words."""
    return [_order_of(value) for value in group]


def _order_of(value: str) -> tuple[int, float, str]:
    try:
        number = float(value)
    except ValueError:
        return 1, 0.0, value
    return (1, 0.0, value) if np.isnan(number) else (0, number, value)
