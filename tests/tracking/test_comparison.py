"""Statistics of groups, against numbers by hand and scipy's own."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gradgrad.tracking.comparison import Method, compare_groups, corrected, estimate, paired_test

A, B, C = ("0.0",), ("0.3",), ("10",)
VALUES = {A: [3.0, 5.0, 4.0], B: [2.0, 4.5, 3.9], C: [5.0, 4.0, 4.0]}
T_975 = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # the closed form for two degrees of freedom; 4.3027 in printed tables


def frame(values):
    return pd.DataFrame([(group, str(seed), value) for group in values for seed, value in enumerate(values[group])]).set_axis(
        ["group", "pair", "value"], axis=1
    )


def against_a(values=VALUES, **method):
    return compare_groups(frame(values), dict.fromkeys(values, A), Method(**method)).set_index("group")


def test_mean_error_and_interval_by_hand():
    found = estimate(np.array([3.0, 5.0, 4.0]), "t")  # variance 1, so the standard error is 1 / sqrt(3)
    half = T_975 / math.sqrt(3)
    assert found == pytest.approx((4.0, 1 / math.sqrt(3), 4 - half, 4 + half), rel=1e-9)


def test_a_bootstrap_interval_is_scipys_and_repeats():
    values = np.array([3.0, 5.0, 4.0, 9.0, 1.0])
    direct = stats.bootstrap((values,), np.mean, random_state=np.random.default_rng(0)).confidence_interval
    assert estimate(values, "bootstrap")[2:] == estimate(values, "bootstrap")[2:] == (direct.low, direct.high)


@pytest.mark.parametrize("interval", ["t", "bootstrap"])
def test_one_value_has_no_interval_and_equal_ones_a_point(interval):
    found = estimate(np.array([3.0]), interval)
    assert found.mean == 3.0
    assert np.isnan(found[1:]).all()
    assert estimate(np.array([0.1, 0.1, 0.1]), interval) == pytest.approx((0.1, 0.0, 0.1, 0.1), abs=1e-16)


def test_the_paired_t_test_by_hand():
    difference = np.array([-1.0, -0.5, -0.1])
    t = difference.mean() / (difference.std(ddof=1) / math.sqrt(3))
    by_hand = 1 - abs(t) / math.sqrt(t**2 + 2)  # the closed form for two degrees of freedom
    row = against_a().loc[[B]].iloc[0]
    assert row["p"] == pytest.approx(by_hand, rel=1e-9)
    half = T_975 * difference.std(ddof=1) / math.sqrt(3)
    expected = (difference.mean(), difference.mean() - half, difference.mean() + half)
    assert tuple(row[["difference", "difference_low", "difference_high"]]) == pytest.approx(expected, rel=1e-9)


def test_wins_losses_and_ties_turn_with_the_direction():
    wanted = ["pairs", "wins", "losses", "ties"]
    assert list(against_a().loc[[C]].iloc[0][wanted]) == [3, 1, 1, 1]
    assert list(against_a(maximize=True).loc[[B]].iloc[0][wanted]) == [3, 0, 3, 0]
    assert list(against_a()["best"]) == [False, True, False]
    assert list(against_a(maximize=True)["best"]) == [False, False, True]


def test_wilcoxon_by_hand():  # three differences of one sign: 2 of 8 equally likely signs are as extreme
    assert paired_test(np.array([2.0, 4.5, 3.9]), np.array([3.0, 5.0, 4.0]), "wilcoxon") == pytest.approx(0.25)


def test_holm_by_hand_and_missing_tests_do_not_count():
    p = pd.Series([0.01, float("nan"), 0.04, 0.03])
    assert list(corrected(p, "holm").dropna()) == pytest.approx([0.03, 0.06, 0.06])
    assert list(corrected(p, "bonferroni").dropna()) == pytest.approx([0.03, 0.12, 0.09])
    assert list(corrected(p, "none").dropna()) == [0.01, 0.04, 0.03]
    assert corrected(pd.Series([float("nan")]), "holm").isna().all()


def test_only_shared_seeds_are_paired():
    runs = frame(VALUES)
    runs = runs[~((runs["group"] == B) & (runs["pair"] == "0"))]
    row = compare_groups(runs, dict.fromkeys(VALUES, A), Method()).set_index("group").loc[[B]].iloc[0]
    assert (row["n"], row["pairs"], row["difference"]) == (2, 2, pytest.approx(-0.3))


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
@pytest.mark.parametrize("shift", [0.0, 0.1, 1e-3])
def test_differences_that_do_not_vary_warn_of_nothing(test, shift):
    values = {A: [0.3, 55.7, 1e-3], B: [0.3 + shift, 55.7 + shift, 1e-3 + shift]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = against_a(values, test=test).loc[[B]].iloc[0]
    assert tuple(row[["difference", "difference_low", "difference_high"]]) == pytest.approx((shift,) * 3, abs=1e-13)
    if test == "t" or shift == 0:
        assert math.isnan(row["p"])
    else:
        assert row["p"] == pytest.approx(0.25)


def test_numbers_are_sorted_as_numbers_before_words():
    runs = frame({(name,): [1.0] for name in ("10", "9", "nan", "adam", "1e-3", "absent")})
    assert [group for (group,) in compare_groups(runs, {}, Method())["group"]] == ["1e-3", "9", "10", "absent", "adam", "nan"]


def test_the_best_is_looked_for_among_those_with_the_same_baseline():
    values = {("a", "0"): [1.0, 2.0], ("a", "1"): [0.5, 1.0], ("b", "0"): [10.0, 20.0], ("b", "1"): [30.0, 40.0]}
    baselines = {group: (group[0], "0") for group in values}
    table = compare_groups(frame(values), baselines, Method())
    assert list(table["best"]) == [False, True, True, False]
    assert list(table["difference"].dropna()) == [-0.75, 20.0]
