"""The logger: what is buffered, what is sent, how a run ends."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from conftest import runs_of
from gradgrad.errors import UsageError
from gradgrad.tracking import MLflowLogger


@pytest.fixture
def logger(project):
    return MLflowLogger("one", flush_seconds=60)


def history(client, logger, key):
    return [(m.step, m.value) for m in client.get_metric_history(logger.run_id, key)]


def test_no_run_before_it_is_needed(project, client):
    logger = MLflowLogger("one")
    assert logger.version is None
    assert client.get_experiment_by_name("one") is None
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finalize()
    assert [run.info.status for run in runs_of(client, "one")] == ["FINISHED"]


def test_metrics_wait_and_arrive_complete_and_in_order(logger, client):
    for step in range(2500):
        logger.log_metrics({"train/loss": step / 2}, step)
    assert history(client, logger, "train/loss") == []
    logger.finalize("success")
    assert history(client, logger, "train/loss") == [(step, step / 2) for step in range(2500)]


def test_metrics_can_be_sent_at_once(project, client):
    logger = MLflowLogger("one", flush_seconds=0)
    logger.log_metrics({"train/loss": 1.0}, 0)
    assert history(client, logger, "train/loss") == [(0, 1.0)]


def test_nan_and_infinity_are_kept(logger, client):
    logger.log_metrics({"train/loss": float("nan"), "val/loss": float("inf")}, 0)
    logger.finalize()
    (nan,), (infinite,) = (client.get_metric_history(logger.run_id, key) for key in ("train/loss", "val/loss"))
    assert nan.value != nan.value
    assert infinite.value > 1e300


def test_lightnings_epoch_is_kept_where_it_changes(logger, client):
    for step, epoch in enumerate([0, 0, 0, 1, 1]):
        logger.log_metrics({"train/loss": 1.0, "epoch": epoch}, step)
    logger.finalize()
    assert history(client, logger, "train/epoch") == [(0, 0), (3, 1)]
    assert history(client, logger, "epoch") == []


def test_a_name_that_mlflow_would_change_is_refused(logger):
    with pytest.raises(
        UsageError,
        match=r"^metric 'val/acc@5' cannot be stored by MLflow\.\n"
        r"expected: letters, digits and _ - \. / space, for example val/rmse$",
    ):
        logger.log_metrics({"val/acc@5": 1.0}, 0)


def test_a_negative_wait_is_refused():
    with pytest.raises(UsageError, match=r"^MLflowLogger got flush_seconds -1; write 0 \(send at once\) or more\.$"):
        MLflowLogger(flush_seconds=-1)


def test_hold_decides_once_for_several_stages(logger, client):
    with logger.hold():
        logger.log_metrics({"train/loss": 1.0}, 0)
        logger.finalize("success")
        assert client.get_run(logger.run_id).info.status == "RUNNING"
        logger.log_metrics({"test/loss": 2.0}, 1)
        logger.finalize("success")
    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"train/loss": 1.0, "test/loss": 2.0}


@pytest.mark.parametrize(
    ("error", "status", "tags"),
    [
        (RuntimeError("boom"), "FAILED", {"exception": "RuntimeError"}),
        (KeyboardInterrupt(), "KILLED", {"signal": "SIGINT"}),
        (SystemExit(143), "KILLED", {"signal": "SIGTERM"}),
    ],
)
def test_how_it_ends(logger, client, project, error, status, tags):
    logger.log_metrics({"train/loss": 1.0}, 0)
    with pytest.raises(type(error), match=r"^(boom|143|)$"), logger.hold():  # noqa: PT012
        _ = logger.experiment
        raise error
    run = client.get_run(logger.run_id)
    assert run.info.status == status
    assert {key: run.data.tags.get(key) for key in ("exception", "signal") if key in run.data.tags} == tags
    assert run.data.metrics == {"train/loss": 1.0}
    traceback = logger.run.artifact_dir / "traceback.txt"
    assert traceback.exists() == (status == "FAILED")
    assert status != "FAILED" or "RuntimeError: boom" in traceback.read_text()


def test_a_stage_that_fails_under_lightning_alone(logger, client):
    logger.log_metrics({"train/loss": 1.0}, 0)
    _ = logger.experiment
    try:
        raise ValueError("without the command line")
    except ValueError:
        logger.finalize("failed")
    run = client.get_run(logger.run_id)
    assert (run.info.status, run.data.tags["exception"]) == ("FAILED", "ValueError")


def test_a_later_stage_reopens_and_closes_the_run(logger, client):
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finalize()
    logger.log_metrics({"test/loss": 1.0}, 0)
    logger.flush()
    assert client.get_run(logger.run_id).info.status == "RUNNING"
    logger.finalize()
    assert client.get_run(logger.run_id).info.status == "FINISHED"


@pytest.mark.parametrize("status", ["FINISHED", "KILLED", "RUNNING"])
def test_an_attached_stage_leaves_the_status_alone(logger, client, status):
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finalize()
    if status == "RUNNING":
        client.update_run(logger.run_id, status="RUNNING")
    else:
        client.set_terminated(logger.run_id, status, 123)
    later = MLflowLogger("one")
    later.run.attach(logger.run_id)
    with later.hold():
        later.log_metrics({"test/loss": 2.0}, 1)
    run = client.get_run(logger.run_id)
    assert run.info.status == status
    assert status == "RUNNING" or run.info.end_time == 123
    assert run.data.metrics["test/loss"] == 2.0
    assert len(runs_of(client, "one")) == 1


def test_one_value_per_run_stands_at_step_0(logger, client):
    names = ["best/x", "test/x", "spectrum/x", "spectrum_ggn_last/x", "hessian/x"]
    logger.log_metrics(dict.fromkeys(names, 1.0), 7)
    logger.finalize()
    assert [history(client, logger, name) for name in names] == [*[[(0, 1.0)]] * 4, [(7, 1.0)]]


def test_the_description_names_the_outermost_eigenvalues(logger, client):
    names = ["spectrum/lambda_max", "spectrum_ggn/lambda_max", "spectrum/residual", "hessian/lambda_max"]
    logger.log_metrics(dict.fromkeys(names, 1.0), 7)
    logger.finalize()
    note = client.get_run(logger.run_id).data.tags["mlflow.note.content"]
    assert note.splitlines()[:2] == ["- **spectrum_ggn**: lambda_max 1", "- **spectrum**: lambda_max 1"]
    assert (note.count("lambda_max"), note.count("residual")) == (2, 0)


def test_a_folder_of_artifacts_is_removed(logger, client):
    logger.run.log_text("1", "report/a.csv")
    logger.run.log_text("2", "reports/b.csv")
    assert logger.run.remove_artifacts("report")
    assert not logger.run.remove_artifacts("report")
    logger.finalize()
    assert [file.path for file in client.list_artifacts(logger.run_id)] == ["reports"]


def test_a_stage_without_metrics_keeps_the_number_of_steps(logger, client):
    logger.log_metrics({"train/loss": 1.0}, 7)
    logger.finalize()
    later = MLflowLogger("one")
    later.run.attach(logger.run_id)
    with later.hold():
        _ = later.experiment
    assert client.get_run(logger.run_id).data.tags["steps"] == "7"


@pytest.mark.parametrize("flush_seconds", [0, 60])
def test_a_late_mistake_discards_no_metric(project, client, flush_seconds):
    logger = MLflowLogger("one", flush_seconds=flush_seconds)
    with pytest.raises(UsageError, match=r"^late$"), logger.hold():  # noqa: PT012
        logger.log_metrics({"train/loss": 1.0}, 0)
        raise UsageError("late")
    assert [(run.info.status, run.data.metrics) for run in runs_of(client, "one")] == [("FAILED", {"train/loss": 1.0})]


def test_best_values_are_those_at_the_best_checkpoint(logger, client, project):
    callback = SimpleNamespace(monitor="val/loss", best_model_path=str(logger.run.artifact_dir / "checkpoints" / "best.ckpt"))
    for step, loss in [(10, 3.0), (20, 1.0), (30, 2.0)]:
        logger.log_metrics({"val/loss": loss, "val/rmse": 10 * loss}, step)
        callback.current_score = torch.tensor(loss)
        callback.best_model_score = torch.tensor(loss if step == 10 else 1.0)
        logger.after_save_checkpoint(callback)
    logger.finalize()
    assert history(client, logger, "best/loss") == [(0, 1.0)]
    assert history(client, logger, "best/rmse") == [(0, 10.0)]
    assert history(client, logger, "best/step") == [(0, 20.0)]
    assert client.get_run(logger.run_id).data.tags["checkpoint.best"] == "checkpoints/best.ckpt"


def test_hyperparameters_without_the_command_line(logger, client):
    logger.log_hyperparams({"lr": 0.1, "net": torch.nn.Linear(1, 1), "api_key": "abc"})
    logger.flush()
    params = client.get_run(logger.run_id).data.params
    assert params["lr"] == "0.1"
    assert params["net"].startswith("Linear(")
    assert params["api_key"] == "***"


def test_after_the_config_hyperparameters_say_nothing_new(logger, client):
    logger.log_config({"model": {"init_args": {"lr": 0.1}}}, "model: ...\n")
    logger.log_hyperparams({"lr": 0.1})
    logger.flush()
    assert client.get_run(logger.run_id).data.params == {"model.init_args.lr": "0.1"}


def test_more_params_than_one_request_takes(logger, client):
    logger.log_config({f"k{n}": n for n in range(250)}, "")
    logger.flush()
    assert len(client.get_run(logger.run_id).data.params) == 250


SCRIPT = """
from gradgrad.tracking import MLflowLogger
logger = MLflowLogger("one", flush_seconds=999)
_ = logger.experiment
for step in range(200):
    logger.log_metrics({{"train/loss": step}}, step)
{end}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", "FINISHED"),
        ("raise RuntimeError('boom')", "FAILED"),
        ("import sys; sys.exit(3)", "FINISHED"),
        ("raise KeyboardInterrupt", "KILLED"),
    ],
)
def test_nothing_is_lost_when_python_exits_without_finalize(project, client, end, status):
    subprocess.run([sys.executable, "-c", SCRIPT.format(end=end)], capture_output=True, cwd=project, check=False)
    (run,) = runs_of(client, "one")
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 200
    assert run.info.status == status


def test_a_test_that_is_repeated_after_a_kill_logs_nothing_twice(project, client):
    first = MLflowLogger("one")
    first.log_metrics({"test/loss": 1.0, "test/rmse": 2.0}, 5)
    first.finalize()
    second = MLflowLogger("one")
    second.resume(first.run_id, set(), {"test/loss": 1.0, "test/rmse": 2.0})
    second.log_metrics({"test/loss": 1.0, "test/rmse": 3.0}, 5)
    second.finalize()
    history = {key: [point.value for point in client.get_metric_history(first.run_id, key)] for key in ("test/loss", "test/rmse")}
    assert history == {"test/loss": [1.0], "test/rmse": [2.0, 3.0]}
