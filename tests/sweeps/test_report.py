import re

import pandas
import pytest

from gradgrad.sweeps import report
from gradgrad.sweeps.report import LONGEST, describe_sweep, publish
from gradgrad.sweeps.standing import duration, standing, with_error
from gradgrad.tracking.run import TrackedRun
from studies import LR, WEIGHT, add, empty_study, finished, one_of_each

BEST = "# gradgrad fit -c mlruns/sweeps/weights/best.yaml\n# Point 1.\nmodel: {}\n"


def files(client, run_id, folder=None):
    found = client.list_artifacts(run_id, folder)
    return sorted(path for each in found for path in (files(client, run_id, each.path) if each.is_dir else [each.path]))


def published(study, best=BEST, times=1, **tags):
    run = TrackedRun("weights", "weights", {"sweep.role": "parent", **tags}, None)
    for _ in range(times):
        publish(run, study, best)
    run.close(None, 0)
    return run.id


def test_the_run_of_a_sweep_tells_its_story(project, client):
    study = one_of_each()
    run_id = published(study, times=2)
    run = client.get_run(run_id)
    figures = ["history", "importance", "parallel_coordinates", "slice"]
    assert files(client, run_id) == ["best.yaml", *(f"figures/{name}.png" for name in figures), "points.csv", "trials.csv"]
    folder = project / "mlruns" / "artifacts"
    table = pandas.read_csv(next(folder.rglob("trials.csv")))
    assert len(table) == 18
    assert next(folder.rglob("best.yaml")).read_text() == BEST
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {
        "best/val/rmse": 54.5,
        "best/val/rmse_standard_error": pytest.approx(0.288675),
        "points/finished": 2,
        "points/failed": 1,
        "points/pruned": 1,
    }
    assert len(client.get_metric_history(run_id, "best/val/rmse")) == 1, "the same twice is once"
    assert run.data.tags["mlflow.note.content"] == describe_sweep(standing(study), BEST), "the end of the run leaves it"


def test_a_later_result_takes_the_place_of_the_earlier(project, client, monkeypatch):
    monkeypatch.setattr(report, "figures", lambda study: {})
    study = one_of_each()
    run = TrackedRun("weights", "weights", {"sweep.role": "parent"}, None)
    publish(run, study, None)
    add(study, {WEIGHT: 0.5, LR: 0.003}, finished(50.0, 50.0, 50.0))
    publish(run, study, BEST)
    run.close(None, 0)
    recorded = client.get_run(run.id).data
    assert recorded.metrics["best/val/rmse"] == 50.0
    assert recorded.metrics["points/finished"] == 3
    assert recorded.tags["mlflow.note.content"].startswith("**val/rmse 50** at point 7 ")
    assert "best.yaml" in files(client, run.id)


def test_a_sweep_that_ends_before_it_says_anything_gets_the_description_of_any_run(project, client):
    run = TrackedRun("weights", "weights", {"sweep.role": "parent"}, None)
    run.log_tags({"exception": "OSError"})
    run.close(None, 0)
    assert "OSError" in client.get_run(run.id).data.tags["mlflow.note.content"]


def test_the_description():
    assert describe_sweep(standing(one_of_each()), BEST) == "\n".join(
        [
            "**val/rmse 54.50 ± 0.29** at point 1 (each run at its best, mean ± standard error over 3 seeds; lower is better)",
            "",
            f"- `{WEIGHT}`: `1`",
            f"- `{LR}`: `0.003`",
            "",
            "points: 2 finished, 1 failed, 1 pruned, 1 running, 1 waiting, 1 duplicate.",
            "Point 2 failed: seed 0: the loss is NaN at step 3",
            "",
            "```",
            "gradgrad fit -c mlruns/sweeps/weights/best.yaml",
            "```",
            "",
            "| point | weight | lr | val/rmse | seeds |",
            "| ---: | --- | --- | ---: | ---: |",
            "| 1 | 1 | 0.003 | 54.50 ± 0.29 | 3 |",
            "| 0 | 0.1 | 0.003 | 57.00 ± 0.58 | 3 |",
        ]
    )


def test_the_description_without_a_result():
    study = empty_study()
    add(study, {WEIGHT: 1.0, LR: 0.01}, state="FAIL", reason="<b>out of memory</b> | 80 GB")
    text = describe_sweep(standing(study), None)
    assert text.splitlines()[0] == "**No point has finished.**"
    assert text.splitlines()[-1] == r"Point 0 failed: \<b>out of memory\</b> \| 80 GB"
    assert describe_sweep(standing(empty_study()), None).endswith("points: nothing begun.")


def test_a_description_that_mlflow_takes():
    study = empty_study(keys=[f"model.{'k' * 50}{i}" for i in range(40)], seeds=[0])
    for value in range(6):
        add(study, {f"model.{'k' * 50}{i}": "v|" * 500 for i in range(40)}, finished(float(value)), space={})
    assert len(describe_sweep(standing(study), BEST)) <= LONGEST
    few = empty_study(keys=["model.a"], seeds=[0])
    add(few, {"model.a": "x|y\nz"}, finished(1.0), space={})
    assert re.search(r"^\| 0 \| x\\\|y z \| 1 \| 1 \|$", describe_sweep(standing(few), BEST), re.MULTILINE)


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (54.5, 0.288, "54.50 ± 0.29"),
        (54.5, float("nan"), "54.5"),
        (54.5, 0.0, "54.5"),
        (1234.5, 120.0, "1234.5 ± 1.2e+02"),
        (1e-9, 2e-10, "1e-09 ± 2e-10"),
        (0.91234, 0.0123, "0.912 ± 0.012"),
    ],
)
def test_a_mean_with_its_error(mean, error, text):
    assert with_error(mean, error) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (7199, "2 h 0 min"), (11100, "3 h 5 min"), (190000, "2 d 4 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
