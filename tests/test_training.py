"""The verbs of LightningCLI as a user types them, each as one tracked run."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from conftest import QUICK, REGRESSOR, runs_of
from gradgrad.tracking.flatten import flatten

FIT = ["fit", "-c", REGRESSOR, *QUICK]


def artifacts(project, run):
    return project / "mlruns" / "artifacts" / "gradient_norm_regressor" / run.info.run_id / "artifacts"


@pytest.fixture
def fitted(project, run_cli, client):
    code, out, complaint = run_cli(*FIT, "--seed_everything=3", "--data.split=2", "--model.network.hidden=[7]")
    assert code == 0, complaint
    (run,) = runs_of(client)
    return run, out


def test_a_fit_records_everything(fitted, project, client):
    run, out = fitted
    folder = artifacts(project, run)
    params, tags, metrics = run.data.params, run.data.tags, run.data.metrics
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "max_epochs=2 seed_everything=3 split=2 hidden=[7]"

    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert params == dict(flatten(config))
    assert params["model.init_args.network.init_args.hidden"] == "[7]"
    assert params["model.init_args.penalties.0.init_args.weight"] == str(
        config["model"]["init_args"]["penalties"][0]["init_args"]["weight"]
    )
    assert params["seed_everything"] == "3"

    assert {"git.dirty", "version.torch", "checkpoint.best", "checkpoint.last"} <= set(tags)
    assert tags["command.fit"].startswith("gradgrad fit -c ")
    epochs = {name: torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")}
    assert epochs["best"] in (0, 1)
    assert epochs["last"] == 2  # done
    assert (folder / "predictions.png").read_bytes()[:4] == b"\x89PNG"

    for key in ("loss", "rmse", "mae", "r2"):
        assert {f"val/{key}", f"best/{key}", f"test/{key}"} <= set(metrics)
    for key in ("loss", "gradient_norm", "penalty"):
        assert [m.step for m in client.get_metric_history(run.info.run_id, f"train/{key}")] == list(range(20))

    note = tags["mlflow.note.content"]
    assert "gradgrad fit -c" in note
    assert f"rmse {metrics['test/rmse']:.5g}" in note.splitlines()[0]

    inputs = {entry.tags[0].value: entry.dataset for entry in run.inputs.dataset_inputs}
    assert set(inputs) == {"training", "validation", "test"}
    assert inputs["training"].name == "diabetes"
    assert inputs["training"].profile == '{"num_rows": 318}'
    assert len(inputs["training"].digest) == 32

    assert f"run {run.info.run_id} of experiment gradient_norm_regressor" in out
    assert "look at it: gradgrad ui" in out
    assert re.search(r"rmse\s+│\s+[\d.]+\s+│\s+[\d.]+", out)


def test_the_recorded_config_reproduces_the_run(fitted, project, client, run_cli):
    first, _ = fitted
    (project / "elsewhere").mkdir()
    config = project / "elsewhere" / "config.yaml"
    config.write_text((artifacts(project, first) / "config.yaml").read_text())
    assert run_cli("fit", "-c", config)[0] == 0
    second, _ = runs_of(client)
    states = [
        torch.load(artifacts(project, run) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (first, second)
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert first.data.params == second.data.params
    seeded = [key for key in first.data.metrics if not key.startswith("system/") and key != "hessian/seconds"]
    metrics = [{key: run.data.metrics[key] for key in seeded} for run in (first, second)]
    assert metrics[0] == metrics[1]
    assert first.info.experiment_id == second.info.experiment_id


@pytest.mark.parametrize(
    ("verb", "artifact", "metric"), [("test", "predictions.png", "test/rmse"), ("predict", "predictions.csv", None)]
)
def test_a_later_process_goes_on_in_the_same_run(fitted, project, client, run_cli, verb, artifact, metric):
    run, _ = fitted
    before = client.get_metric_history(run.info.run_id, "test/rmse")[0].value
    (artifacts(project, run) / artifact).unlink(missing_ok=True)
    # the config file says 50 hidden units, split 0, seed 0: what was trained wins
    code, _, _ = run_cli(verb, "-c", REGRESSOR, "--ckpt_path", "best")
    assert code == 0
    (after,) = runs_of(client)
    assert after.info.status == "FINISHED"
    assert after.info.end_time == run.info.end_time
    assert (artifacts(project, after) / artifact).exists()
    assert f"command.{verb}" in after.data.tags
    if metric:
        assert after.data.metrics[metric] == before
        assert "gradgrad fit" in after.data.tags["mlflow.note.content"]
        assert "gradgrad test" in after.data.tags["mlflow.note.content"]


def test_what_the_command_line_says_wins_over_what_was_trained(fitted, client, run_cli):
    indexed = "--trainer.callbacks.0.init_args.verbose=true"
    for arguments in (["--data.split=5"], ["--data.split=6", indexed]):
        before = runs_of(client)[0].data.metrics["test/rmse"]
        code, _, complaint = run_cli("test", "-c", REGRESSOR, "--ckpt_path=best", *arguments)
        assert code == 0, complaint
        (after,) = runs_of(client)
        assert after.data.metrics["test/rmse"] != before


def test_a_certain_run(fitted, project, client, run_cli):
    first, _ = fitted
    assert run_cli(*FIT)[0] == 0
    newest = runs_of(client)[0]
    assert newest.info.run_id != first.info.run_id
    assert run_cli("validate", "-c", REGRESSOR, "--run_id", first.info.run_id, "--ckpt_path", "last")[0] == 0
    assert "command.validate" in client.get_run(first.info.run_id).data.tags
    assert "command.validate" not in client.get_run(newest.info.run_id).data.tags
    assert run_cli("test", "-c", REGRESSOR, "--ckpt_path", "last")[0] == 0
    assert "command.test" in client.get_run(newest.info.run_id).data.tags


def test_a_checkpoint_file_brings_its_network(fitted, project, client, run_cli):
    run, _ = fitted
    checkpoint = artifacts(project, run) / "checkpoints" / "best.ckpt"
    code, _, complaint = run_cli("test", "-c", REGRESSOR, "--ckpt_path", checkpoint)
    assert code == 0, complaint
    assert len(runs_of(client)) == 2  # a file says nothing of a run


def test_training_goes_on_from_a_checkpoint_and_the_command_line_wins(fitted, project, client, run_cli):
    run, _ = fitted
    command = [
        "fit",
        "-c",
        REGRESSOR,
        "--ckpt_path",
        "last",
        *QUICK[1:],
        "--trainer.max_epochs=3",
        "--model.penalties.weight=0.5",
    ]
    assert run_cli(*command)[0] == 0
    newest, first = runs_of(client)
    assert first.info.run_id == run.info.run_id
    assert newest.data.params["model.init_args.penalties.0.init_args.weight"] == "0.5"
    assert newest.data.params["model.init_args.network.init_args.hidden"] == "[7]"
    assert [m.step for m in client.get_metric_history(newest.info.run_id, "train/loss")] == list(range(20, 30))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--ckpt_path", "bst"], "--ckpt_path bst: no such file.\nexpected: best, last or a checkpoint file"),
        (["--ckpt_path", "best"], "--ckpt_path best: there is no experiment 'gradient_norm_regressor' in sqlite:///{}.\n"
         "expected: one of Default\nwrite:    --trainer.logger.experiment_name Default, or --run_id <id>"),
        (["--run_id", "x", "--ckpt_path", "a.ckpt"],
         "--run_id x has checkpoints of its own.\nwrite: --ckpt_path best or last, or leave --run_id out"),
        (["--run_id", "nope"], "--run_id nope: no such run in sqlite:///{}.\nwrite: an id that `gradgrad ui` shows"),
    ],
)  # fmt: skip
def test_no_such_checkpoint(project, run_cli, client, arguments, complaint):
    code, _, said = run_cli("test", "-c", REGRESSOR, *arguments)
    assert said == "gradgrad test: " + complaint.replace("{}", str(project / "mlruns" / "mlflow.db"))
    assert code == 2
    assert client.get_experiment_by_name("gradient_norm_regressor") is None


def test_no_store_yet(tmp_path, monkeypatch, run_cli):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    code, _, said = run_cli("test", "-c", REGRESSOR, "--ckpt_path", "best")
    assert said == (
        f"gradgrad test: --ckpt_path best: there is no run yet ({tmp_path}/mlruns/mlflow.db does not exist).\n"
        f"write: gradgrad fit first"
    )
    assert (code, list(tmp_path.iterdir())) == (2, [])


def test_a_checkpoint_that_is_gone(fitted, project, run_cli):
    run, _ = fitted
    (artifacts(project, run) / "checkpoints" / "best.ckpt").unlink()
    code, _, said = run_cli("test", "-c", REGRESSOR, "--ckpt_path", "best")
    assert said == (
        f"gradgrad test: --ckpt_path best: run {run.info.run_id} names checkpoints/best.ckpt, which is gone.\n"
        f"write: another --run_id"
    )
    assert code == 2


def test_a_run_without_that_checkpoint(fitted, client, run_cli):
    run, _ = fitted
    client.delete_tag(run.info.run_id, "checkpoint.best")
    code, _, said = run_cli("test", "-c", REGRESSOR, "--run_id", run.info.run_id)
    assert said == f"gradgrad test: --ckpt_path best: run {run.info.run_id} has no such checkpoint.\nwrite: --ckpt_path last"
    code, _, said = run_cli("test", "-c", REGRESSOR, "--ckpt_path=best")
    assert said == (
        "gradgrad test: --ckpt_path best: no run of experiment 'gradient_norm_regressor' has such a checkpoint.\n"
        "write: gradgrad fit first, or --ckpt_path <file.ckpt>"
    )
    assert code == 2


def test_list_items_by_index_and_appended_callbacks(project, run_cli):
    code, out, _ = run_cli(
        "fit", "-c", REGRESSOR, "--trainer.callbacks.0.init_args.monitor", "val/rmse",
        "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss", "--print_config",
    )  # fmt: skip
    assert code == 0
    callbacks = yaml.safe_load(out)["trainer"]["callbacks"]
    assert [c["class_path"].rpartition(".")[2] for c in callbacks] == [
        "ModelCheckpoint",
        "LastCheckpoint",
        "Predictions",
        "HessianSpectrum",
        "EarlyStopping",
    ]
    assert [c.get("init_args", {}).get("monitor") for c in callbacks] == ["val/rmse", None, None, None, "val/loss"]
    assert not (project / "mlruns" / "artifacts").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["gradgrad.callbacks.HessianSpectrum"],
         "the trainer got two HessianSpectrum of the name hessian; expected a name for each.\n"
         "write:    --trainer.callbacks.name=second (for the one just appended), or init_args.name in YAML"),
        (["ModelCheckpoint", "--trainer.callbacks.monitor=val/loss"],
         "the trainer got two ModelCheckpoints that a checkpoint could not tell apart.\n"
         "write:    one of them, or other init_args for the second"),
    ],
)  # fmt: skip
def test_two_callbacks_of_one_state(project, run_cli, client, arguments, sentence):
    code, _, said = run_cli(*FIT, f"--trainer.callbacks+={arguments[0]}", *arguments[1:])
    assert said == f"gradgrad fit: {sentence}"
    assert code == 2
    assert runs_of(client) == []


def test_tracking_can_be_left_out(project, run_cli, client):
    assert run_cli(*FIT, "--trainer.logger=false", "--trainer.enable_checkpointing=false", "--trainer.callbacks=[]")[0] == 0
    assert client.get_experiment_by_name("gradient_norm_regressor") is None


def test_test_after_fit_can_be_left_out(project, run_cli, client):
    assert run_cli(*FIT, "--test_after_fit=false")[0] == 0
    (run,) = runs_of(client)
    assert "best/rmse" in run.data.metrics
    assert "test/rmse" not in run.data.metrics


def test_a_fast_dev_run_leaves_no_run(project, run_cli, client):
    code, _, complaint = run_cli("fit", "-c", REGRESSOR, "--trainer.fast_dev_run=true")
    assert code == 0, complaint
    assert client.get_experiment_by_name("gradient_norm_regressor") is None


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_threads(fitted, threads, run_cli, client, verb):
    arguments = FIT if verb == "fit" else [verb, "-c", REGRESSOR, "--ckpt_path=best"]
    assert run_cli(*arguments)[0] == 0
    assert torch.get_num_threads() == 2  # PyTorch's own choice stays
    assert run_cli(*arguments, "--threads=1")[0] == 0
    assert torch.get_num_threads() == 1
    assert runs_of(client)[0].info.run_name == (
        "max_epochs=2" if verb == "fit" else "max_epochs=2 seed_everything=3 split=2 hidden=[7]"
    )


def test_threads_in_a_config(project, threads, run_cli, client):
    (project / "own.yaml").write_text(f"config: {REGRESSOR}\nthreads: 1\n")
    assert run_cli("fit", "-c", "own.yaml", *QUICK)[0] == 0
    assert torch.get_num_threads() == 1
    assert runs_of(client, "own")[0].data.params["threads"] == "1"


@pytest.mark.parametrize(
    ("threads", "wrong"),
    [
        ("0", "a number >0"),
        ("-1", "a number >0"),
        ("many", "a number"),
    ],
)
def test_no_such_number_of_threads(project, run_cli, client, threads, wrong):
    code, _, said = run_cli(*FIT, f"--threads={threads}")
    assert said == f"gradgrad fit: command line: wrong value for threads\ngot:      {threads}\nexpected: {wrong}"
    assert code == 2
    assert runs_of(client) == []


def test_another_name_for_the_experiment(project, run_cli, client):
    arguments = [
        "--trainer.logger.experiment_name=mine",
        "--trainer.logger.run_name=first",
        '--trainer.logger.tags={"who": "me"}',
    ]
    assert run_cli(*FIT, *arguments)[0] == 0
    (run,) = runs_of(client, "mine")
    assert (run.info.run_name, run.data.tags["who"]) == ("first", "me")


def test_bad_data_is_told_before_a_run_is_opened(project, run_cli, client):
    (project / "own.csv").write_text("a,b,y\n" + "1,2,3\n" * 12)
    code, _, said = run_cli(*FIT, "--data.name=null", "--data.path=own.csv", "--data.target=y")
    assert said == "gradgrad fit: own.csv: the target is constant (3 in every row); there is nothing to predict."
    assert code == 2
    assert client.get_experiment_by_name("gradient_norm_regressor") is None


STRANGER = """
import torch
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

class Model(BoringModel):
    def __init__(self, lr: float = 0.1, api_key: str | None = None, metric: str = "val/loss", options: dict | None = None):
        super().__init__()
        self.save_hyperparameters()

    def validation_step(self, batch, batch_idx):
        self.log(self.hparams["metric"], self.layer(batch).sum())

class Data(BoringDataModule):
    pass

class Alone(Model):
    def test_step(self, batch, batch_idx):
        raise AssertionError("there is no test data")
    test_dataloader = None
"""
SECRET = "planted-7f3a9c"


@pytest.fixture
def stranger(project, monkeypatch):
    """A module and data of someone else's, without this project's base config."""
    (project / "stranger.py").write_text(STRANGER)
    (project / "own.yaml").write_text(
        "seed_everything: 1\nmodel: stranger.Model\ndata: stranger.Data\ntrainer: {max_epochs: 1, accelerator: cpu}\n"
    )
    monkeypatch.syspath_prepend(project)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    return ["fit", "-c", "own.yaml", *QUICK[1:]]


def test_a_config_of_ones_own_can_be_resumed_too(stranger, project, run_cli, client):
    assert run_cli(*stranger)[0] == 0
    (run,) = runs_of(client, "own")
    assert run.data.tags["checkpoint.last"] == "checkpoints/last.ckpt"
    folder = project / "mlruns" / "artifacts" / "own" / run.info.run_id / "artifacts" / "checkpoints"
    assert "gradgrad.resumable" in torch.load(folder / "last.ckpt", weights_only=True)


def test_secrets_are_nowhere(stranger, project, run_cli, client):
    tags = json.dumps({"hf_token": SECRET, "note": "x"})
    code, out, said = run_cli(*stranger, f"--model.api_key={SECRET}", f"--trainer.logger.tags={tags}")
    assert code == 0, said
    assert SECRET not in out + said
    (run,) = runs_of(client, "own")
    assert run.data.params["model.init_args.api_key"] == "***"
    assert (run.data.tags["hf_token"], run.data.tags["note"]) == ("***", "x")
    files = [path for path in project.rglob("*") if path.is_file()]
    assert {".ckpt", ".yaml", ".db"} <= {path.suffix for path in files}
    assert [path for path in files if holds(path, SECRET)] == []


def test_secrets_are_not_in_a_traceback(stranger, project, run_cli, client):
    (project / "stranger.py").write_text(
        STRANGER
        + "    def on_train_start(self):\n        key = self.hparams.api_key\n"
        + "        raise RuntimeError(f'https://me:{key}@h, api_key={key}')\n"
    )
    code, out, said = run_cli(*stranger, "--model=stranger.Alone", f"--model.api_key={SECRET}")
    assert code == 1
    assert "RuntimeError" in said
    assert SECRET not in out + said
    assert [path for path in project.rglob("*") if path.is_file() and holds(path, SECRET)] == []


def holds(path, secret):
    return secret.encode() in path.read_bytes() or (
        path.suffix == ".ckpt" and secret in str(torch.load(path, weights_only=True).get("hyper_parameters"))
    )


def test_a_secret_key_without_a_value_leaves_the_config_as_it_is(stranger, project, run_cli, client):
    assert run_cli(*stranger)[0] == 0
    (run,) = runs_of(client, "own")
    config = project / "mlruns" / "artifacts" / "own" / run.info.run_id / "artifacts" / "config.yaml"
    assert yaml.safe_load(config.read_text())["model"]["init_args"]["api_key"] is None
    assert run_cli("fit", "-c", config, *QUICK[1:])[0] == 0
    assert run_cli("test", "-c", "own.yaml", "--ckpt_path=last", *QUICK[1:])[0] == 0


def test_a_mistake_that_shows_only_with_the_module_built_leaves_no_run(stranger, run_cli, client):
    code, _, said = run_cli(*FIT, "--data=stranger.Data", "--data.init_args={}")
    assert said.startswith(
        "gradgrad fit: GradientNormRegressor got data from Data, which has no statistics of its training part."
    )
    assert code == 2
    assert runs_of(client) == []


def test_a_mistake_in_mid_training_is_a_failure(stranger, run_cli, client):
    code, _, said = run_cli(*stranger, "--model.metric=val:loss")
    assert "metric 'val:loss' cannot be stored by MLflow." in said
    assert code == 1
    assert [run.info.status for run in runs_of(client, "own")] == ["FAILED"]


def test_a_module_without_test_data_is_not_tested(stranger, run_cli, client):
    code, _, said = run_cli(*stranger, "--model=stranger.Alone", "--data=null")
    assert code == 0, said
    assert [run.info.status for run in runs_of(client, "own")] == ["FINISHED"]


def test_names_that_mlflow_refuses_are_one_parameter(stranger, run_cli, client):
    code, _, said = run_cli(*stranger, '--model.options={"a(b)%": 1}')
    assert code == 0, said
    assert runs_of(client, "own")[0].data.params["model.init_args.options"] == '{"a(b)%": 1}'


def test_two_loggers(stranger, project, run_cli, client):
    other = {"class_path": "CSVLogger", "init_args": {"save_dir": str(project / "csv")}}
    code, _, said = run_cli(
        *stranger, "--trainer.logger=" + json.dumps([{"class_path": "gradgrad.tracking.MLflowLogger"}, other])
    )
    assert code == 0, said
    assert [run.info.status for run in runs_of(client, "own")] == ["FINISHED"]
    assert list((project / "csv").rglob("metrics.csv"))


@pytest.mark.parametrize("content", [b"junk", b""])
def test_a_checkpoint_that_is_none(project, run_cli, content):
    (project / "junk.ckpt").write_bytes(content)
    code, _, said = run_cli("test", "-c", REGRESSOR, "--ckpt_path=junk.ckpt")
    assert said.startswith("gradgrad test: junk.ckpt cannot be read as a checkpoint: ")
    assert said.endswith("\nwrite: another --ckpt_path")
    assert code == 2


@pytest.mark.slow
def test_a_password_in_the_address_is_nowhere(project, start_cli):
    address = f"postgresql://me:{SECRET}@127.0.0.1:1/none"
    process = start_cli(*FIT, MLFLOW_TRACKING_URI=address)
    out, _ = process.communicate()
    assert process.returncode == 2, out
    assert "the tracking store postgresql://***@127.0.0.1:1/none cannot be opened" in out
    assert SECRET not in out


def test_an_own_module_beside_ours(stranger, project, client, run_cli):
    code, _, said = run_cli(*stranger, "--model.lr=0.3")
    assert code == 0, said
    (run,) = runs_of(client, "own")
    assert run.info.status == "FINISHED"
    assert run.data.params["model.init_args.lr"] == "0.3"
    assert "lr" not in run.data.params
    folder = project / "mlruns" / "artifacts" / "own" / run.info.run_id / "artifacts" / "checkpoints"
    assert {"epoch=0-step=64.ckpt", "last.ckpt"} <= {path.name for path in folder.iterdir()}
    assert run_cli("test", "-c", "own.yaml", "--ckpt_path=last", *QUICK[1:])[0] == 0
    assert len(runs_of(client, "own")) == 1
    assert not Path("lightning_logs").exists()
    assert not Path("checkpoints").exists()
