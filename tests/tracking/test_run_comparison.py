"""What is said of a comparison as a whole."""

import pytest

from comparisons import WEIGHT, compared, grid, run

TABLE = {"0.0": {0: 3.0, 1: 5.0, 2: 4.0}, "0.3": {0: 2.0, 1: 4.5, 2: 3.9}}


def test_few_pairs_cannot_be_significant_by_wilcoxon():
    assert compared(grid(TABLE), against=["0"], test="wilcoxon").notes == [
        "with 3 pairs the Wilcoxon test cannot give p below 0.25"
    ]
    many = {weight: {seed: seed + int(weight) * (seed + 1) / 9 for seed in range(6)} for weight in ("0", "1")}
    comparison = compared(grid(many), against=["0"], test="wilcoxon")
    assert comparison.notes == []
    assert comparison.caption[-1] == "p: Wilcoxon signed-rank test, two-sided, corrected for 1 comparison (holm)."


def test_one_pair_is_no_test():
    assert compared(grid({"0.0": {0: 3.0, 1: 5.0}, "0.3": {0: 2.0, 7: 4.5}}), against=["0"]).notes == [
        "seed_everything does not match: 0, 1 in 1 of 2 groups, but 0, 7 in weight=0.3",
        "no test for weight=0.3: one pair",
    ]


def test_a_name_without_a_direction():
    name = "hessian/lambda_max"
    said = f"the name {name} does not tell a direction: lower is taken as better; or write --direction maximize"
    assert compared(grid(TABLE, metric=name), metric=name).notes == [said]
    comparison = compared(grid(TABLE, metric=name), metric=name, direction="maximize")
    assert comparison.notes == []
    assert comparison.caption[0] == f"{name} of x; higher is better."


def test_the_last_validation_is_not_the_best_one():
    def runs(metrics):
        return [run({WEIGHT: "0", "seed_everything": seed}, dict.fromkeys(metrics, 1.0 + seed)) for seed in range(2)]

    said = "val/rmse is the last value of each run; best/rmse is that of its best checkpoint"
    assert compared(runs(["val/rmse", "best/rmse"]), metric="val/rmse").notes == [said]
    assert compared(runs(["val/rmse"]), metric="val/rmse").notes == []


@pytest.mark.parametrize("pairing", [None, ["seed"]])
def test_the_seed_of_a_trial_pairs_where_no_parameter_does(pairing):
    runs = [
        run({WEIGHT: weight}, {"test/rmse": value}, {"seed": str(seed)})
        for weight, values in TABLE.items()
        for seed, value in values.items()
    ]
    comparison = compared(runs, against=["0"], pair=pairing)
    assert comparison.caption[3] == "Differences: group minus weight=0.0, paired by seed."
    assert list(comparison.table["pairs"].dropna()) == [3]
