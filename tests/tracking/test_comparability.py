"""What is said of runs that are left out, and of groups that may not be comparable."""

import pytest

from comparisons import WEIGHT, compared, grid, run
from gradgrad.errors import UsageError

TABLE = {"0.0": {0: 3.0, 1: 5.0, 2: 4.0}, "0.3": {0: 2.0, 1: 4.5, 2: 3.9}}
EXTRA = {"0.3": {3: 7.0}}


def test_nothing_is_said_of_groups_that_match():
    assert compared(grid(TABLE), against=["0"]).notes == []


@pytest.mark.parametrize(
    ("runs", "note"),
    [
        (grid(EXTRA, status="FAILED"), "1 run is left out: not FINISHED (1 FAILED); --all takes them in"),
        (
            grid(EXTRA, status="KILLED", tags={"pruned": "true"}) + grid(EXTRA, status="RUNNING"),
            "2 runs are left out: not FINISHED (1 KILLED, pruned, 1 RUNNING); --all takes them in",
        ),
        (grid(EXTRA, metric="test/mae"), "1 run is left out: without test/rmse"),
        (grid(EXTRA, tags={"superseded": "true"}), "1 run is left out: another took the place (tag `superseded`)"),
        (grid({"0.3": {3: float("nan")}}), "1 run is left out: test/rmse is NaN or infinite (1 of weight=0.3)"),
        (
            grid({"0.3": {3: -float("inf")}, "0.0": {3: 1.7976931348623157e308}}),  # as MLflow's SQL store writes infinity
            "2 runs are left out: test/rmse is NaN or infinite (1 of weight=0.3, 1 of weight=0.0)",
        ),
    ],
)
def test_runs_without_a_result_are_left_out_and_counted(runs, note):
    comparison = compared(grid(TABLE) + runs)
    assert comparison.notes == [note]
    assert list(comparison.table["n"]) == [3, 3]
    assert list(comparison.table["mean"]) == pytest.approx([4.0, 10.4 / 3])


def test_all_takes_in_what_is_not_finished():
    comparison = compared(grid({**TABLE, "1.0": TABLE["0.0"]}, status="FAILED"), all=True)
    assert comparison.notes == []
    assert list(comparison.table["n"]) == [3, 3, 3]


def test_of_the_same_seed_the_newest_counts():
    comparison = compared(grid({"0.3": {1: 100.0, 2: 100.0}}) + grid(TABLE))
    said = "a newer one has the same values and the same seed_everything (weight=0.3 with seed_everything 1, "
    assert comparison.notes == [f"2 runs are left out: {said}weight=0.3 with seed_everything 2)"]
    assert list(comparison.table["mean"]) == pytest.approx([4.0, 10.4 / 3])


def test_seeds_that_do_not_match():
    table = {**TABLE, "1.0": {0: 1.0, 1: 2.0}, "9.0": {7: 9.0}}
    assert (
        compared(grid(table), against=["0"]).notes
        == [
            "seed_everything does not match: 0, 1, 2 in 2 of 4 groups, but 0, 1 in weight=1.0, 7 in weight=9.0",
            "weight=9.0 has one run: no standard error and no interval",
            "no test for weight=9.0: no pair in common with its baseline",
            "no test for weight=1.0: its differences do not vary",
        ]
        or compared(grid(table), against=["0"]).notes[:3]
    )


def test_runs_without_a_seed_count_and_are_not_paired():
    runs = [run({WEIGHT: weight}, {"test/rmse": value}) for weight, value in (("0", 1.0), ("0", 2.0), ("1", 3.0), ("1", 5.0))]
    comparison = compared(runs, against=["0"])
    assert list(comparison.table["n"]) == [2, 2]
    assert comparison.notes[0] == "4 of 4 runs have no seed_everything: they count, and cannot be paired"
    assert comparison.notes[-1] == "no test for weight=1: no pair in common with its baseline"


def test_data_that_differ():
    comparison = compared(grid(TABLE) + grid({"1.0": {0: 1.0, 1: 2.0, 2: 4.0}}, digest="d2"), against=["0.3"])
    assert comparison.notes == ["data digests differ from those of weight=0.3: weight=1.0"]


def test_data_may_differ_from_seed_to_seed_and_between_what_is_not_compared():
    by_seed = [
        run({WEIGHT: weight, "seed_everything": seed}, {"test/rmse": seed * 1.1 + float(weight) * seed**2}, digest=f"d{seed}")
        for weight in ("0", "1")
        for seed in range(3)
    ]
    assert compared(by_seed, against=["0"]).notes == []
    of_sets = [
        run(
            {WEIGHT: weight, "data.name": name, "seed_everything": seed}, {"test/rmse": seed + int(weight) * seed**2}, digest=name
        )
        for weight in ("0", "1")
        for name in ("a", "b")
        for seed in range(3)
    ]
    both = {"by": ["data.name", WEIGHT]}
    assert compared(of_sets, against=["weight=0"], **both).notes == []
    assert compared(of_sets, against=["a", "0"], **both).notes == [
        "data digests differ from those of name=a weight=0: name=b weight=0, name=b weight=1",
        "no test for name=b weight=0: its differences do not vary",
    ]


def test_data_that_are_not_known():
    runs = grid({"0.0": TABLE["0.0"]}) + grid({"0.3": TABLE["0.3"]}, digest=None)
    assert compared(runs).notes == ["3 of 6 runs recorded no data digests: whether they saw the same data is not known"]


def test_code_that_differs():
    runs = grid({"0.0": TABLE["0.0"]}) + grid({"0.3": TABLE["0.3"]}, tags={"git.commit": "b" * 40, "git.dirty": "true"})
    commits = "aaaaaaaaaaaa, bbbbbbbbbbbb"
    assert compared(runs).notes == [f"code: 2 commits ({commits}); 3 of 6 runs had uncommitted changes"]
    runs = grid(TABLE, tags={"git.dirty": "true"})
    assert compared(runs).notes == ["code: one commit; 6 of 6 runs had uncommitted changes"]


def test_what_a_group_hides():
    def runs(**more):
        return [
            run({WEIGHT: "0.0", "seed_everything": seed, "data.init_args.split": seed % 2, **more}, {"test/rmse": seed})
            for seed in (0, 1)
        ]

    harmless = {"trainer.logger.init_args.run_name": "x", "trainer.callbacks.0.init_args.dirpath": "y"}
    assert compared(runs(**harmless)).notes == ["runs of one group differ in data.split: put that into --by, or into --pair"]
    assert compared(runs(), pair=["seed_everything", "data.split"]).notes == []
    lost, why = compared([*runs(), *runs(**{"model.init_args.lr": 1})]).notes[:2]
    assert lost.startswith("2 runs are left out: a newer one has the same values and the same seed_everything (")
    assert why == "runs of one group differ in data.split, model.lr: put that into --by, or into --pair"
    assert compared(runs()[:1] + runs(**harmless)[1:]).notes[0].startswith("runs of one group differ in data.split:")


def test_nothing_is_left():
    with pytest.raises(UsageError, match="no run is left") as caught:
        compared(grid(EXTRA, status="FAILED") + grid(EXTRA, metric="test/rmse", tags={"superseded": "x"}))
    assert str(caught.value) == (
        "no run is left to compare\ngot:      2 runs\n1 run is left out: another took the place (tag `superseded`)\n"
        "1 run is left out: not FINISHED (1 FAILED); --all takes them in"
    )
    with pytest.raises(UsageError, match="NaN or infinite in all 1 runs"):
        compared(grid({"0": {0: float("nan")}}))
