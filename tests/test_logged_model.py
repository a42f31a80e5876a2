"""The flags that log a model, and what is said where none can be logged."""

import re

import pytest

from conftest import QUICK, REGRESSOR, runs_of

pytestmark = pytest.mark.slow
FIT = ["fit", "-c", REGRESSOR, *QUICK, "--test_after_fit=false"]


def models_of(client):
    (run,) = runs_of(client)
    return client.search_logged_models([run.info.experiment_id])


def test_no_model_unless_wanted_and_one_of_a_test_if_wanted(project, client, run_cli, caplog):
    code, _, _ = run_cli(*FIT, "--log_model=false")
    assert (code, models_of(client)) == (0, [])
    assert not any(message.startswith("model:") for message in caplog.messages)
    assert run_cli("test", *FIT[1:3], *QUICK[1:], "--ckpt_path", "best")[0] == 0
    assert models_of(client) == []
    assert run_cli("test", *FIT[1:3], *QUICK[1:], "--ckpt_path", "best", "--log_model", "true")[0] == 0
    (model,) = models_of(client)
    assert f"model: models:/{model.model_id}" in caplog.messages


def test_no_logger_no_model(project, run_cli, caplog):
    code, _, err = run_cli(*FIT, "--trainer.logger=false", "--register", "diabetes")
    assert code == 0, err
    assert "--register diabetes: there is no run to take a model from, for the trainer has no MLflowLogger" in caplog.messages


def test_a_store_that_takes_no_model_costs_no_run(project, client, run_cli, monkeypatch, caplog):
    from mlflow import MlflowClient

    def fail(*_, **__):
        raise ConnectionError("the disk at https://me:planted-secret@store.example is full")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", fail)
        code, _, err = run_cli(*FIT)
    (run,) = runs_of(client)
    assert (code, run.info.status) == (0, "FINISHED")
    assert "planted-secret" not in err + caplog.text
    said = [line for line in caplog.messages if line.startswith(("the model", "later"))]
    told = f"the model of run {run.info.run_id} was not logged: the disk at https://.*@store.example is full"
    assert re.fullmatch(told, said[0])
    command = f"gradgrad test -c config.yaml --run_id {run.info.run_id} --ckpt_path best --log_model true"
    assert said[1:] == [f"later: {command}"]
    arguments = command.replace("config.yaml", str(REGRESSOR)).split()[1:]
    assert run_cli(*arguments, *QUICK[1:])[::2] == (0, "")
    assert sorted(model.status for model in models_of(client)) == ["FAILED", "READY"]
