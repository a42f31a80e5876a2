"""Verbs, help, exit codes, signals."""

import signal
import time

import pytest

import gradgrad
from conftest import QUICK, REGRESSOR, runs_of
from gradgrad.cli import VERBS


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_names_every_verb(run_cli, arguments):
    code, out, _ = run_cli(*arguments)
    assert code == 0
    assert all(f"\n  {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(run_cli, verb):
    code, out, _ = run_cli(verb, "--help")
    assert code == 0
    assert f"usage: gradgrad {verb}" in out.replace(" [options]", "")


def test_version(run_cli):
    assert run_cli("--version")[:2] == (0, f"gradgrad {gradgrad.__version__}\n")


def test_a_misspelt_verb(run_cli):
    assert run_cli("fot") == (
        2,
        "",
        "gradgrad fot: unknown verb\n"
        "expected: one of fit, validate, test, predict, spectrum, compare, sweep, sync, doctor, reproduce, ui\n"
        "write:    gradgrad fit",
    )


def test_options_before_the_verb(run_cli):
    code, _, said = run_cli("-c", "a.yaml", "fit")
    verbs = "fit | validate | test | predict | spectrum | compare | sweep | sync | doctor | reproduce | ui"
    assert said == f"gradgrad -c: the verb comes first\nexpected: gradgrad <{verbs}> -c ..."
    assert code == 2


@pytest.mark.slow
def test_help_does_not_import_torch(start_cli):
    process = start_cli("--help", PYTHONPROFILEIMPORTTIME="1")
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "usage: gradgrad" in out
    assert "| torch" not in out.replace("|   ", "| ")


@pytest.mark.slow
def test_help_of_fit_does_not_import_mlflow(start_cli):
    process = start_cli("fit", "--help", PYTHONPROFILEIMPORTTIME="1")
    out, _ = process.communicate()
    assert process.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in out.splitlines() if line.startswith("import time:")}
    assert "lightning.pytorch.cli" in imported
    assert not {"mlflow", "sqlalchemy", "sklearn", "git"} & imported


CALLBACKS = """
import time
from pathlib import Path
from lightning.pytorch import Callback

class Slow(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        time.sleep(0.05)
        if trainer.current_epoch == 1 and batch_idx == 3:
            Path("in_mid_epoch").touch()

class Boom(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 3:
            raise RuntimeError("boom")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "SIGINT")], ids=["TERM", "INT"]
)
def test_a_signal_in_mid_epoch(project, client, start_cli, number, code, name):
    (project / "callbacks.py").write_text(CALLBACKS)
    process = start_cli("fit", "-c", REGRESSOR, *QUICK[1:], "--trainer.callbacks+=callbacks.Slow")
    deadline = time.monotonic() + 120
    while not (project / "in_mid_epoch").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    (run,) = runs_of(client)
    assert run.info.status == "KILLED"
    assert run.data.tags["signal"] == name
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 13
    assert f"run {run.info.run_id} is KILLED ({name}); what it had logged and saved is kept" in out
    assert "Traceback" not in out
    assert {"checkpoint.best", "checkpoint.last"} <= set(run.data.tags)
    assert "best/rmse" in run.data.metrics


@pytest.mark.slow
def test_an_exception_in_mid_epoch(project, client, start_cli):
    (project / "callbacks.py").write_text(CALLBACKS)
    process = start_cli("fit", "-c", REGRESSOR, *QUICK[1:], "--trainer.callbacks+=callbacks.Boom")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    (run,) = runs_of(client)
    assert (run.info.status, run.data.tags["exception"]) == ("FAILED", "RuntimeError")
    folder = project / "mlruns" / "artifacts" / "gradient_norm_regressor" / run.info.run_id / "artifacts"
    assert "RuntimeError: boom" in (folder / "traceback.txt").read_text()
    assert "RuntimeError: boom" in out
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 13


@pytest.mark.slow
def test_a_signal_before_there_is_a_run(project, client, start_cli):
    process = start_cli("fit", "-c", REGRESSOR)
    time.sleep(1)  # still importing
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode in (143, -15)
    assert client.get_experiment_by_name("gradient_norm_regressor") is None


@pytest.mark.slow
def test_four_fits_at_once_on_a_store_that_does_not_exist(project, start_cli):
    from mlflow import MlflowClient

    database = project / "fresh" / "mlflow.db"
    processes = [
        start_cli("fit", "-c", REGRESSOR, *QUICK, f"--seed_everything={seed}", MLFLOW_TRACKING_URI=f"sqlite:///{database}")
        for seed in range(4)
    ]
    ends = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0, 0], ends
    runs = runs_of(MlflowClient(f"sqlite:///{database}"))
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    assert len({run.data.metrics["test/rmse"] for run in runs}) == 4
