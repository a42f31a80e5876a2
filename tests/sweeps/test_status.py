import io

import pytest
from rich.console import Console

from gradgrad.sweeps.status import print_best, print_status
from studies import LR, WEIGHT, add, empty_study, finished, one_of_each


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=1000)


def lines(console):
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_status_of_a_sweep_that_does_not_run(console):
    study = one_of_each()
    print_status(study, total=10, console=console)
    assert lines(console) == [
        f"sweep {study.study_name} does not run; gradgrad sweep resume {study.study_name} goes on with it",
        "2 finished, 1 failed, 1 pruned, 1 running, 1 waiting, 1 duplicate of 10 points, 13 of 30 runs",
        "best: val/rmse 54.50 ± 0.29 at weight=1 lr=0.003 (point 1)",
        "point 2 failed (weight=30 lr=0.01): seed 0: the loss is NaN at step 3",
    ]


def test_status_of_a_sweep_that_runs(console):
    study = one_of_each()
    study.set_user_attr("trials", 10)
    print_status(study, running=True, console=console)
    found = lines(console)
    assert found[0] == f"sweep {study.study_name} runs"
    assert found[1].endswith("of 10 points, 13 of 30 runs")
    assert [cell.strip() for cell in found[6].strip("│").split("│")] == ["5", "1", "weight=2 lr=0.01"]


def test_status_of_a_sweep_that_has_ended(console):
    study = empty_study(seeds=[0])
    for value in (1.0, 2.0):
        add(study, {WEIGHT: value, LR: 0.01}, finished(value))
    print_status(study, total=2, console=console)
    assert lines(console) == [
        f"sweep {study.study_name} has ended",
        "2 finished of 2 points, 2 of 2 runs",
        "best: val/rmse 1 at weight=1 lr=0.01 (point 0)",
    ]


def test_the_last_failures_only(console):
    study = empty_study()
    for place in range(5):
        add(study, {WEIGHT: 1.0, LR: 0.01}, state="FAIL", reason=f"reason {place}")
    print_status(study, console=console)
    assert [line[-8:] for line in lines(console)[-3:]] == ["reason 4", "reason 3", "reason 2"]
    assert lines(console)[1] == "points: 5 failed"


def test_best(console, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "my sweep" / "best.yaml"
    config.parent.mkdir()
    config.write_text("model: {}")
    print_best(one_of_each(), config, console=console)
    assert lines(console) == [
        "val/rmse 54.50 ± 0.29 at point 1 (each run at its best, mean ± standard error over 3 seeds; lower is better)",
        f"  {WEIGHT}  1",
        f"  {LR}        0.003",
        "  seed 0: 54, run 54-0",
        "  seed 1: 54.5, run 54.5-1",
        "  seed 2: 55, run 55-2",
        "train it: gradgrad fit -c 'my sweep/best.yaml'",
    ]


def test_no_best(console):
    study = empty_study()
    print_best(study, console=console)
    assert lines(console) == [f"sweep {study.study_name}: no point has finished; points: nothing begun"]
