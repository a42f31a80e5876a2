"""`gradgrad fit --resume` as a user types it: the same run, the same curve, and what was changed."""

import signal

import pytest
import torch
import yaml

from conftest import QUICK, REGRESSOR, runs_of
from gradgrad.origin import TOLD

STOP = """
import os, signal
from lightning.pytorch import Callback

class Stop(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if str(trainer.global_step) == os.environ.get("STOP_AT"):
            if "KILL" in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("boom")
"""
FIT = ["fit", "-c", REGRESSOR, *QUICK, "--log_model=false", "--trainer.callbacks+=stop.Stop"]
OFTEN = ["--trainer.callbacks.1.init_args.every_seconds=0", "--trainer.callbacks.1.init_args.share=1"]
RATE = "--model.optimizer.init_args.lr"


@pytest.fixture
def stop(project, monkeypatch):
    """Let a training fail at a step, or none."""
    (project / "stop.py").write_text(STOP)
    monkeypatch.syspath_prepend(project)
    monkeypatch.delenv(TOLD, raising=False)

    def at(step):
        monkeypatch.setenv("STOP_AT", str(step))

    return at


def curve(client, run):
    seeded = [key for key in run.data.metrics if not key.startswith("system/") and "seconds" not in key]
    history = {key: client.get_metric_history(run.info.run_id, key) for key in seeded}
    return {key: sorted((point.step, point.value) for point in points) for key, points in history.items()}


def last(project, run):
    folder = project / "mlruns" / "artifacts" / "gradient_norm_regressor" / run.info.run_id / "artifacts"
    return folder / "checkpoints" / "last.ckpt"


def weights(project, run):
    return torch.load(last(project, run), weights_only=True)["state_dict"]


@pytest.mark.slow
def test_killed_and_resumed_is_the_uninterrupted(project, client, start_cli, run_cli, stop, caplog):
    assert run_cli(*FIT, *OFTEN)[0] == 0
    (whole,) = runs_of(client)
    killed = start_cli(*FIT, *OFTEN, "--resume=auto", STOP_AT="13", KILL="1")
    said = killed.communicate(timeout=300)[0]
    assert killed.returncode == -signal.SIGKILL, said
    told = "--resume auto: experiment 'gradient_norm_regressor' has no unfinished run with a checkpoint; a new run begins"
    assert told in said
    dead = runs_of(client)[0]
    assert (dead.info.status, dead.info.run_name) == ("RUNNING", whole.info.run_name)
    code, _, said = run_cli(*FIT, *OFTEN, "--resume", "auto")
    assert code == 0, said
    assert f"run {dead.info.run_id} goes on at step 1" in caplog.text  # 12 or 13: the kill may come before the last was written
    resumed, first = runs_of(client)
    assert (resumed.info.run_id, first.info.run_id) == (dead.info.run_id, whole.info.run_id)
    assert resumed.info.status == "FINISHED"
    assert "drift.1" not in resumed.data.tags
    assert curve(client, resumed) == curve(client, whole)
    ours, theirs = weights(project, resumed), weights(project, whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert list((project / "mlruns" / "spool").glob("*.db")) == []
    code, _, said = run_cli(*FIT, *OFTEN, "--resume", "auto")  # both are FINISHED
    assert code == 0
    assert told in caplog.text
    assert len(runs_of(client)) == 3


@pytest.fixture
def failed(stop, run_cli, client, project):
    stop(15)
    assert run_cli(*FIT, *OFTEN)[0] == 1
    stop(None)
    (run,) = runs_of(client)
    assert (run.info.status, run.data.tags["exception"]) == ("FAILED", "ArithmeticError")
    return run


def test_what_the_command_line_changes_wins_and_is_recorded(failed, run_cli, client, project, caplog):
    code, _, said = run_cli(*FIT, *OFTEN, "--resume", failed.info.run_id, f"{RATE}=0.5", "--trainer.max_epochs=3")
    assert code == 0, said
    (run,) = runs_of(client)
    assert (run.info.status, run.data.tags["exception"]) == ("FINISHED", "")
    step = int(run.data.tags["resumed.1"].removeprefix("step "))
    assert 12 < step <= 15  # saving every time takes longer than the steps, so that some are passed over
    drift = "trainer.max_epochs: 2 -> 3; model.init_args.optimizer.init_args.lr: 0.01 -> 0.5"
    assert run.data.tags["drift.1"] == drift
    assert f"run {run.info.run_id} goes on at step {step}, changed: {drift}" in caplog.messages
    assert f"--resume {run.info.run_id} {RATE}=0.5" in run.data.tags["command.resumed.1"]
    record = yaml.safe_load((last(project, run).parents[1] / "resumed-1.yaml").read_text())
    assert (record["step"], [row["new"] for row in record["drift"]]) == (step, [3, 0.5])
    assert record["config"]["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 0.5
    assert run.data.params["model.init_args.optimizer.init_args.lr"] == "0.01"  # parameters cannot be changed
    assert torch.load(last(project, run), weights_only=True)["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.5
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(30))


def test_the_one_before_where_the_last_is_half_written(failed, run_cli, client, project, caplog):
    file = last(project, failed)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    code, _, said = run_cli(*FIT, *OFTEN, "--resume", "auto")
    assert code == 0, said
    (run,) = runs_of(client)
    step = run.data.tags["resumed.1"]
    told = f"last.ckpt cannot be read (it is no checkpoint, or half of one); previous.ckpt of {step} is taken"
    assert told in caplog.messages
    assert (run.info.status, int(step.removeprefix("step ")) < 15) == ("FINISHED", True)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == list(range(20))


def test_a_file_begins_a_new_run_and_the_command_line_wins(failed, run_cli, client, project, caplog):
    last(project, failed).rename(project / "own.ckpt")
    step = torch.load(project / "own.ckpt", weights_only=True)["global_step"]
    code, _, said = run_cli(*FIT, "--resume=own.ckpt", f"{RATE}=0.5", "--trainer.max_steps=16", "--test_after_fit=false")
    assert code == 0, said
    assert f"--resume own.ckpt: the file belongs to no run; a new run begins from its step {step}" in caplog.messages
    new, _ = runs_of(client)
    assert [point.step for point in client.get_metric_history(new.info.run_id, "train/loss")] == list(range(step, 16))
    (state,) = torch.load(last(project, new), weights_only=True)["optimizer_states"]
    assert (state["param_groups"][0]["initial_lr"], int(state["state"][0]["step"])) == (0.5, 16)


def test_another_network_leaves_the_run_as_it_stood(failed, run_cli, client):
    code, _, said = run_cli(*FIT, *OFTEN, "--resume", failed.info.run_id, "--model.network.hidden=[9]")
    assert code == 2
    assert said.splitlines()[-2:] == [
        "gradgrad fit: last.ckpt comes from another network or optimizer: size mismatch for network.layers.0.weight: "
        "copying a param with shape torch.Size([50, 10]) from checkpoint, "
        "the shape in current model is torch.Size([9, 10]).",
        "write: the model's settings that made the checkpoint, or another checkpoint",
    ]
    (run,) = runs_of(client)
    assert (run.info.status, run.info.end_time) == ("FAILED", failed.info.end_time)
    assert (run.data.tags["exception"], run.data.tags["steps"]) == ("ArithmeticError", failed.data.tags["steps"])
    assert "resumed" not in run.data.tags
