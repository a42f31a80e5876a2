import io
import math

import pandas
import pytest

from gradgrad.sweeps.points import points_of, ranked
from gradgrad.sweeps.trials_table import points_table, trials_table
from studies import LR, WEIGHT, add, empty_study, finished, one_of_each


def test_one_row_per_run():
    table = trials_table(one_of_each())
    assert list(table) == ["point", "seed", "trial", "status", "weight", "lr", "value", "step", "seconds", "run_id", "reason"]
    assert table.trial.is_unique
    assert table[["point", "seed", "trial", "status"]].values.tolist() == [
        *([0, seed, seed, "finished"] for seed in range(3)),
        *([1, seed, 3 + seed, "finished"] for seed in range(3)),
        [2, 0, 6, "failed"],
        [2, 1, 7, "skipped"],
        [2, 2, 8, "skipped"],
        [3, 0, 9, "finished"],
        [3, 1, 10, "skipped"],
        [3, 2, 11, "skipped"],
        [5, 0, 15, "finished"],
        [5, 1, 16, "running"],
        [5, 2, 17, "waiting"],
        *([6, seed, 18 + seed, "waiting"] for seed in range(3)),
    ]
    first, failed, skipped = table.iloc[1], table.iloc[6], table.iloc[10]
    assert (first.weight, first.lr, first.value, first.step, first.seconds, first.run_id) == (0.1, 0.003, 57.0, 10, 2.0, "57-1")
    assert (failed.reason, failed.run_id) == ("the loss is NaN at step 3", "e")
    assert math.isnan(failed.value)
    assert skipped.reason == "hopeless after seed 0"


def test_one_row_per_point():
    table = points_table(one_of_each()).set_index("point")
    assert list(table.status) == ["finished", "finished", "failed", "pruned", "duplicate", "running", "waiting"]
    assert table.loc[1, ["mean", "standard_error", "n"]].tolist() == pytest.approx([54.5, 0.5 / math.sqrt(3), 3])
    assert table.loc[4, ["mean", "standard_error", "n", "duplicate_of"]].tolist() == pytest.approx(
        [54.5, 0.5 / math.sqrt(3), 3, 1]
    )
    assert table.loc[3, ["mean", "n", "reason"]].tolist() == [70.0, 1, "hopeless after seed 0"]
    assert table.loc[[2, 3, 6], "standard_error"].isna().all()


def test_tables_survive_csv():
    written = points_table(one_of_each()).to_csv(index=False)
    again = pandas.read_csv(io.StringIO(written))
    assert again.weight.tolist() == [0.1, 1.0, 30.0, 20.0, 1.0, 2.0, 3.0]
    assert again.loc[1, "mean"] == 54.5


def test_conditional_keys_and_values_that_are_no_numbers():
    study = empty_study(keys=["model.optimizer", "model.momentum", "model.nesterov"], seeds=[0])
    add(
        study,
        {"model.optimizer": {"class_path": "torch.optim.SGD"}, "model.momentum": 0.9, "model.nesterov": True},
        finished(1.0),
    )
    add(study, {"model.optimizer": None, "model.nesterov": False}, finished(2.0))
    table = trials_table(study)
    assert table.optimizer.tolist() == ['{"class_path": "torch.optim.SGD"}', "null"]
    assert table.nesterov.tolist() == ["true", "false"]
    assert table.momentum.isna().tolist() == [False, True]


def test_a_sweep_that_has_not_begun():
    assert trials_table(empty_study()).empty
    assert list(points_table(empty_study())) == [
        "point", "status", "weight", "lr", "mean", "standard_error", "n", "duplicate_of", "reason",
    ]  # fmt: skip


def test_secrets_stay_out(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "hunter2hunter2")
    study = empty_study(keys=["data.api_key"], seeds=[0])
    failed = {"status": "failed", "run_id": "e", "value": None, "step": 3, "reason": "no login by hunter2hunter2", "seconds": 1.0}
    add(study, {"data.api_key": "verysecret"}, {"0": failed}, "FAIL", reason="no login by hunter2hunter2")
    for table in (trials_table(study), points_table(study)):
        assert "***" in table.to_csv()
        assert "verysecret" not in table.to_csv()
        assert "hunter2" not in table.to_csv()


@pytest.mark.parametrize(("direction", "order"), [("minimize", [1, 0]), ("maximize", [0, 1])])
def test_the_best_come_first(direction, order):
    study = empty_study(direction)
    for trial in one_of_each().trials:
        study.add_trial(trial)
    assert [point.number for point in ranked(study, points_of(study))] == order


def test_infinite_values_are_no_result():
    study = empty_study("maximize", seeds=[0])
    add(study, {WEIGHT: 1.0, LR: 0.01}, finished(math.inf))
    add(study, {WEIGHT: 2.0, LR: 0.01}, finished(3.0))
    assert [point.number for point in ranked(study, points_of(study))] == [1]


def test_a_point_that_was_tried_again():
    study = empty_study(seeds=[0])
    add(study, {WEIGHT: 1.0, LR: 0.01}, state="FAIL", reason="out of memory")
    add(study, {WEIGHT: 2.0, LR: 0.01}, state="FAIL", reason="out of memory")
    add(study, {WEIGHT: 1.0, LR: 0.01}, finished(3.0), retry_of=0)
    known = {}
    for _ in range(2):
        assert [point.status for point in points_of(study, known)] == ["retried", "failed", "finished"]
    assert points_of(study, known)[2] is known[2], "what has ended is not read again"
