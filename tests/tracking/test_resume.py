"""Which run goes on, with which checkpoint, and what it has logged."""

import os
import re
import socket
import time
from pathlib import Path

import pytest
import yaml

from gradgrad.errors import UsageError
from gradgrad.tracking.process import HOST, PID, STARTED, this_process
from gradgrad.tracking.resume import certain_run, logged_points, owner, unfinished_runs
from gradgrad.tracking.store import find_experiment

GONE = {HOST: socket.gethostname(), PID: "1", STARTED: "0"}
ELSEWHERE = {**GONE, HOST: "elsewhere"}
NOW = int(time.time() * 1000)


@pytest.fixture
def make(project, client):
    """Make a run with checkpoints, the oldest first."""
    made = []

    def new(*checkpoints, tags=GONE, status="RUNNING", experiment="exp"):
        where = find_experiment(client, experiment, f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")
        run = client.create_run(where, tags=tags, start_time=NOW + len(made))
        made.append(run)
        if status != "RUNNING":
            client.set_terminated(run.info.run_id, status)
        folder = artifacts(run) / "checkpoints"
        folder.mkdir(parents=True)
        for n, name in enumerate(checkpoints):
            (folder / name).write_bytes(b"")
            os.utime(folder / name, (n, n))
        return run.info.run_id

    return new


def artifacts(run):
    return Path(run.info.artifact_uri.removeprefix("file://"))


def test_no_store_is_made_for_looking(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert list(unfinished_runs("exp")) == []
    with pytest.raises(UsageError, match=r"^--resume x: there is no run yet \(.*\).\nwrite: gradgrad fit first$"):
        certain_run("x", "exp")
    assert list(tmp_path.iterdir()) == []


def test_the_newest_first_and_only_those_that_can_go_on(make):
    assert list(unfinished_runs("exp")) == []
    failed = make("last.ckpt", status="FAILED")
    make("last.ckpt", status="FINISHED")
    make("last.ckpt", experiment="other")
    make()  # no checkpoint yet
    killed = make("last.ckpt", status="KILLED", tags=ELSEWHERE)
    dead = make("last.ckpt")
    assert [(run.run_id, run.status) for run in unfinished_runs("exp")] == [
        (dead, "RUNNING"),
        (killed, "KILLED"),
        (failed, "FAILED"),
    ]


def test_a_run_that_lives_is_not_taken(make):
    here, there = make("last.ckpt", tags=this_process()), make("last.ckpt", tags=ELSEWHERE)
    assert list(unfinished_runs("exp")) == [
        f"run {there} is passed over: it may live on elsewhere; --resume {there} takes it",
        f"run {here} is passed over: its process lives",
    ]
    assert certain_run(there, "exp").run_id == there
    sentence = f"--resume {here}: its process lives and trains.\nwrite: --resume never, or end that process first"
    with pytest.raises(UsageError, match=f"^{sentence}$"):
        certain_run(here, "exp")


def test_last_before_previous_before_the_newest_of_the_others(make):
    run_id = make("last.ckpt", "previous.ckpt", "best.ckpt", "epoch=3.ckpt")
    names = [file.name for file in certain_run(run_id, "exp").checkpoints]
    assert names == ["last.ckpt", "previous.ckpt", "epoch=3.ckpt", "best.ckpt"]


def test_the_newest_config_counts(make, client):
    run_id = make("last.ckpt")
    assert (certain_run(run_id, "exp").config, certain_run(run_id, "exp").number) == ({}, 1)
    client.log_text(run_id, "a: 1", "config.yaml")
    assert (certain_run(run_id, "exp").config, certain_run(run_id, "exp").number) == ({"a": 1}, 1)
    for n in (2, 10):
        client.log_text(run_id, yaml.safe_dump({"config": {"a": n}}), f"resumed-{n}.yaml")
    assert (certain_run(run_id, "exp").config, certain_run(run_id, "exp").number) == ({"a": 10}, 11)


def test_runs_that_cannot_be_taken(make, client):
    empty, deleted, other = make(), make("last.ckpt"), make("last.ckpt", experiment="other")
    client.delete_run(deleted)
    sentences = {
        "nope": "no such run in this store, and no such file.\nexpected: auto, never, the id of a run, or a checkpoint file\n"
        "write:    --resume auto, or an id that `gradgrad ui` shows",
        empty: "that run has no checkpoint.\nwrite: --resume never",
        deleted: f"that run was deleted.\nwrite: mlflow runs restore --run-id {deleted} first",
        other: "that run belongs to experiment 'other', this command line to 'exp'.\n"
        "write: --trainer.logger.experiment_name other, or the config file that it was started with",
    }
    for run_id, sentence in sentences.items():
        with pytest.raises(UsageError, match=f"^{re.escape(f'--resume {run_id}: {sentence}')}$"):
            certain_run(run_id, "exp")


def test_whose_checkpoint_a_file_is(tmp_path):
    run_id = "0123456789abcdef" * 2
    assert owner(tmp_path / "mlruns/artifacts/exp" / run_id / "artifacts/checkpoints/last.ckpt") == run_id
    assert owner(tmp_path / "mlruns/uploading" / run_id / "checkpoints/last.ckpt") == run_id
    assert owner(tmp_path / run_id / "last.ckpt") is None
    assert owner(tmp_path / "artifacts/checkpoints/last.ckpt") is None


def test_points_that_are_there_and_those_that_a_spool_keeps(make, client):
    from gradgrad.tracking.spool import Spool

    run_id = make("last.ckpt")
    for step in range(3):
        client.log_metric(run_id, "train/loss", 1.0, step=step)
    client.log_metric(run_id, "test/loss", 1.0, step=0)
    spool = Spool.of_run(run_id)
    spool.put("metrics", [("train/loss", 1.0, NOW, 3), ("val/loss", 1.0, NOW, 2)])
    spool.close()
    assert logged_points(run_id) == ({*(("train/loss", step) for step in range(4)), ("val/loss", 2)}, {"test/loss": 1.0})
