"""A training that is one trial of a sweep."""

import json
import math

import pytest

from conftest import QUICK, REGRESSOR, runs_of
from gradgrad.trial import PRUNE, VARIABLE, Order, Report, chosen, read_values


@pytest.fixture
def order(project, monkeypatch):
    folder = project / "trial"
    folder.mkdir()
    tags = {"sweep": "s", "trial": "3", "point": "1", "seed": "1", "mlflow.parentRunId": "f" * 32}
    order = Order(str(folder), str(project), [], "val/rmse", "minimize", "best", tags, "weight=0.1 seed=1")
    order.save()
    monkeypatch.setenv(VARIABLE, str(folder))
    return order


def test_an_order_is_read_back(order, project):
    assert Order.of(project / "trial") == order


def test_a_fit_reports_its_values_and_says_which_trial_it_is(order, project, client, run_cli):
    assert run_cli("fit", "-c", REGRESSOR, *QUICK)[0] == 0
    (run,) = runs_of(client)
    logged = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "val/rmse")}
    assert read_values(project / "trial") == logged
    assert len(logged) == 2
    assert order.tags.items() <= run.data.tags.items()
    assert run.info.run_name == "weight=0.1 seed=1"
    assert (project / "trial" / "run_id").read_text() == run.info.run_id


def test_a_pruned_fit_stops_after_the_epoch_and_is_killed(order, project, client, run_cli):
    (project / "trial" / PRUNE).touch()
    assert run_cli("fit", "-c", REGRESSOR, *QUICK)[0] == 1  # the sweep's own process takes the exception
    (run,) = runs_of(client)
    assert run.info.status == "KILLED"
    assert run.data.tags["pruned"] == "true"
    assert "exception" not in run.data.tags
    assert len(client.get_metric_history(run.info.run_id, "val/rmse")) == 1  # of two epochs
    assert not [key for key in run.data.metrics if key.startswith("test/")]
    assert run.data.tags["checkpoint.last"].endswith("last.ckpt")  # nothing is lost


def test_other_verbs_are_no_trials(order, project, client, run_cli, monkeypatch):
    monkeypatch.delenv(VARIABLE)
    assert run_cli("fit", "-c", REGRESSOR, *QUICK)[0] == 0
    monkeypatch.setenv(VARIABLE, str(project / "trial"))
    assert run_cli("test", "-c", REGRESSOR, "--ckpt_path=best", "--trainer.enable_progress_bar=false")[0] == 0
    assert read_values(project / "trial") == {}


def test_the_value_that_counts():
    values = {1: 3.0, 2: 1.0, 3: 2.0}
    assert chosen(values, "minimize", "best") == (2, 1.0)
    assert chosen(values, "maximize", "best") == (1, 3.0)
    assert chosen(values, "minimize", "last") == (3, 2.0)
    assert chosen({}, "minimize", "last") is None
    assert chosen({1: 5.0, 2: math.nan, 3: 6.0}, "minimize", "best") == (1, 5.0)
    assert math.isnan(chosen({1: 5.0, 2: math.nan}, "minimize", "best")[1])  # it diverged after its best: that is no success
    assert math.isnan(chosen({1: 5.0, 2: math.nan}, "minimize", "last")[1])
    assert math.isnan(chosen({2: math.nan}, "minimize", "best")[1])


def test_a_value_is_noted_once_and_a_half_written_line_is_none(order, project):
    report = Report(order)
    for step, value in ((1, 2.0), (1, 2.0), (2, 1.5)):
        report.hear({"val/rmse": value, "train/loss": 1.0}, step)
    with (project / "trial" / "values.jsonl").open("a") as file:
        file.write("[3, 1.")
    assert len((project / "trial" / "values.jsonl").read_text().splitlines()) == 3
    again = Report(order)  # another process goes on
    again.hear({"val/rmse": 1.5}, 2)
    assert again.objective == (2, 1.5)
    assert read_values(project / "trial") == {1: 2.0, 2: 1.5}


def test_a_metric_that_is_never_logged(order):
    report = Report(order._replace(metric="val/rsme"))
    report.hear({"val/rmse": 1.0, "val/loss": 2.0}, 1)
    assert report.missing() == (
        "metric val/rsme was never logged; logged were val/loss, val/rmse\nwrite:    objective: {metric: val/rmse}, and --new"
    )


def test_a_result_is_whole_json(order, project):
    from gradgrad.trial import result

    report = Report(order)
    report.hear({"val/rmse": 1.0}, 4)
    assert json.loads(json.dumps(result("finished", report, run_id="x"))) == {
        "status": "finished", "value": 1.0, "step": 4, "run_id": "x", "reason": "",
    }  # fmt: skip
