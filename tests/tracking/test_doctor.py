"""Runs whose process is gone, what they left, and a store that was moved."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from mlflow import MlflowClient

from conftest import runs_of
from gradgrad.tracking import MLflowLogger
from gradgrad.tracking.process import HOST, PID
from gradgrad.tracking.spool import Spool, spools

KILLED = """
import os, signal
from gradgrad.tracking import MLflowLogger
logger = MLflowLogger("one", flush_seconds=999)
for step in range(100):
    logger.log_metrics({"train/loss": step}, step)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(project):
    """A run of 100 points whose process was killed before it sent one."""
    process = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.slow
def test_a_killed_run_is_completed_and_marked(killed, project, client, run_cli):
    (run,) = runs_of(client, "one")
    assert (run.info.status, run.data.metrics) == ("RUNNING", {})
    (file,) = spools()
    code, out, _ = run_cli("doctor", "--dry-run")
    whose = f"process {run.data.tags[PID]} of {run.data.tags[HOST]}"
    assert out.splitlines() == [
        f"run {run.info.run_id}: {file.name} waits for delivery, or its process lives",
        f"run {run.info.run_id} (one): {whose} is gone; would be KILLED now",
    ]
    assert code == 1
    assert runs_of(client, "one")[0].info.status == "RUNNING"
    assert list(spools()) == [file]
    code, out, _ = run_cli("doctor")
    assert out.splitlines() == [
        f"run {run.info.run_id}: 100 entries delivered",
        f"run {run.info.run_id} (one): {whose} is gone; is KILLED now",
    ]
    assert code == 0
    (run,) = runs_of(client, "one")
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(step, step) for step in range(100)]
    assert run.info.status == "KILLED"
    assert run.info.end_time == history[-1].timestamp
    assert run.data.tags["signal"] == "gone"
    assert list(spools()) == []
    assert run_cli("doctor")[:2] == (0, "all is well\n")


@pytest.mark.slow
def test_sync_delivers_and_leaves_the_status(killed, project, client, run_cli):
    (run,) = runs_of(client, "one")
    assert run_cli("sync")[:2] == (0, f"run {run.info.run_id}: 100 entries delivered\n")
    (run,) = runs_of(client, "one")
    assert (run.info.status, run.data.metrics) == ("RUNNING", {"train/loss": 99.0})
    assert run_cli("sync")[:2] == (0, f"nothing waits in {project / 'mlruns' / 'spool'}\n")


def test_a_living_run_is_left_alone(project, client, run_cli):
    logger = MLflowLogger("one", flush_seconds=60)
    logger.log_metrics({"train/loss": 1.0}, 0)
    code, out, _ = run_cli("doctor")
    assert (code, out) == (0, "all is well\n")
    assert client.get_run(logger.run_id).info.status == "RUNNING"
    assert run_cli("sync")[:2] == (0, f"run {logger.run_id}: its process lives, and delivers by itself\n")
    logger.finalize()


@pytest.mark.parametrize(("minutes", "status"), [(9, "RUNNING"), (11, "KILLED")])
def test_a_run_of_another_machine_is_judged_by_its_last_sign(project, client, run_cli, minutes, status):
    experiment = client.create_experiment("one")
    now = time.time() - 60 * minutes
    tags = {HOST: "elsewhere", PID: "1", "heartbeat": str(int(now))}
    run = client.create_run(experiment, tags=tags, start_time=int((now - 9999) * 1000))
    assert run_cli("doctor")[0] == 0
    assert client.get_run(run.info.run_id).info.status == status


def test_what_is_refused_is_told(project, client, run_cli):
    logger = MLflowLogger("one", flush_seconds=60)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finalize()
    spool = Spool.of_run(logger.run_id)
    spool.put("metrics", [["a@b", 1.0, 5, 0]])
    spool.put("tags", {"fine": "1"})
    spool.close()
    code, out, _ = run_cli("sync")
    (file,) = spools()
    assert out == f"run {logger.run_id}: 1 entries delivered; 1 are left: MLflow refuses, and they stay in {file}\n" + (
        f"write: mlflow runs restore --run-id {logger.run_id} if the run was deleted, then gradgrad sync; or delete that file\n"
    )
    assert code == 1
    assert client.get_run(logger.run_id).data.tags["fine"] == "1"


def test_a_missing_checkpoint_is_told(project, client, run_cli):
    logger = MLflowLogger("one", flush_seconds=60)
    logger.run.log_checkpoint("best", str(logger.run.artifact_dir / "checkpoints" / "best.ckpt"))
    logger.run.log_text("a", "a.txt")
    logger.finalize()
    folder = logger.run.artifact_dir
    missing = f"run {logger.run_id}: its best checkpoint checkpoints/best.ckpt is missing in {folder}\n"
    assert run_cli("doctor")[:2] == (1, missing)
    shutil.rmtree(folder)
    assert run_cli("doctor")[:2] == (1, f"run {logger.run_id}: all its artifacts are missing in {folder}\n")


def test_a_missing_config_and_a_missing_model_are_told(project, client, run_cli):
    logger = MLflowLogger("one", tags={"command.fit": "gradgrad fit"}, flush_seconds=60)
    logger.run.log_text("a", "a.txt")
    logger.finalize()
    model = client.create_logged_model(client.get_run(logger.run_id).info.experiment_id, "model", logger.run_id)
    client.finalize_logged_model(model.model_id, "READY")
    folder = client.get_logged_model(model.model_id).artifact_location.removeprefix("file://")
    code, out, _ = run_cli("doctor")
    assert (code, out.splitlines()) == (1, [
        f"run {logger.run_id}: its config config.yaml is missing in {logger.run.artifact_dir}",
        f"model {model.model_id} of run {logger.run_id} is missing in {folder}",
    ])  # fmt: skip


@pytest.mark.slow
def test_a_dry_run_changes_no_byte(killed, project, run_cli):
    def content():
        return {path: path.read_bytes() for path in (project / "mlruns").rglob("*") if path.is_file()}

    before = content()
    assert any(path.name.endswith("mlflow.db-wal") for path in before)
    code, out, _ = run_cli("doctor", "--dry-run", "--relocate")
    assert (code, len(out.splitlines())) == (1, 2)
    after = content()
    changed = [path.name for path in {**before, **after} if before.get(path) != after.get(path)]
    assert [name for name in changed if not name.endswith(("-shm", ".lock"))] == []  # SQLite's locks


def test_a_copied_project(project, client, run_cli, monkeypatch, tmp_path_factory):
    logger = MLflowLogger("one", flush_seconds=60)
    logger.run.log_text("a", "a.txt")
    logger.finalize()
    client._tracking_client.store.engine.dispose()
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(project / "mlruns", home / "mlruns")
    monkeypatch.chdir(home)
    told = f"artifacts of {project / 'mlruns'} are in {home / 'mlruns'} too, a copy: write gradgrad doctor --relocate\n"
    assert run_cli("doctor")[:2] == (1, told)
    assert run_cli("doctor", "--relocate")[0] == 0
    assert run_cli("doctor")[:2] == (0, "all is well\n")


def test_a_moved_project(project, client, run_cli, monkeypatch, tmp_path_factory):
    logger = MLflowLogger("one", flush_seconds=60)
    logger.run.log_text("a", "a.txt")
    logger.finalize()
    client._tracking_client.store.engine.dispose()
    home = tmp_path_factory.mktemp("home") / "elsewhere"
    shutil.move(project / "mlruns", home / "mlruns")
    monkeypatch.chdir(home)
    moved = f"artifacts of {project / 'mlruns'} are in {home / 'mlruns'} now"
    code, out, _ = run_cli("doctor")
    assert (code, out) == (1, f"{moved}: write gradgrad doctor --relocate\n")
    code, out, _ = run_cli("doctor", "--relocate")
    assert code == 0
    links, *rest = out.splitlines()
    (backup,) = (home / "mlruns").glob("mlflow.db.before-relocate-*")
    assert links == f"2 links from {project / 'mlruns'} to {home / 'mlruns'}; the store as it was: {backup.name}"
    assert rest == ["all is well"]
    there = MlflowClient(f"sqlite:///{home / 'mlruns' / 'mlflow.db'}")
    assert [file.path for file in there.list_artifacts(logger.run_id)] == ["a.txt"]
    assert (home / "mlruns").samefile(
        there.get_run(logger.run_id).info.artifact_uri.removeprefix("file://").split("/artifacts")[0]
    )


def test_a_damaged_store(project, run_cli):
    database = project / "mlruns" / "mlflow.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(size - 4096 * 4))
    code, _, said = run_cli("doctor")
    assert code == 2
    assert said.startswith(f"gradgrad doctor: {database} is damaged: ")
    assert said.splitlines()[1:] == [
        "expected: a SQLite file that is whole",
        "write:    sqlite3 mlflow.db .recover | sqlite3 recovered.db, and put that in its place",
    ]


def test_no_store(tmp_path, monkeypatch, run_cli):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    code, _, said = run_cli("doctor")
    assert code == 2
    assert said == (
        f"gradgrad doctor: there is no store: {tmp_path}/mlruns/mlflow.db does not exist.\n"
        "write: gradgrad fit first, or go to the project's folder"
    )


def test_a_misspelt_option(project, run_cli):
    assert run_cli("doctor", "--dryrun") == (
        2,
        "",
        "gradgrad doctor: unrecognized arguments: --dryrun\nexpected: gradgrad doctor [--dry-run] [--relocate]",
    )
