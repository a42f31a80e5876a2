"""Trained modules as MLflow's models: stored without a pickle, loaded, registered."""

import json
import re
from types import SimpleNamespace

import mlflow.pyfunc
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import LightningModule
from torch import nn

from conftest import CONFIGS, QUICK, REGRESSOR, runs_of
from gradgrad.checkpoints import read_checkpoint
from gradgrad.errors import UsageError
from gradgrad.tracking import MLflowLogger
from gradgrad.tracking.models import NotStoredError, TrainedModel, check_name, log_model
from gradgrad.tracking.request_checks import Refusal
from gradgrad.tracking.store import local_folder, tracking_uri

MAML = [
    *(
        "--trainer.max_steps=20",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ),
    *("--model.init_args.compile=false", "--model.init_args.iterations_per_step=10", "--test_after_fit=false"),
    *("--data.init_args.iterations_per_epoch=10", "--data.init_args.eval_tasks=8", "--data.init_args.eval_batch_size=8"),
]


@pytest.fixture
def store(project, monkeypatch):
    """The store that MLflow's own functions ask; not by `set_tracking_uri`, which tests in the same process would go on with."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    return project


def only(client, experiment):
    """The one run of an experiment, its one model, and the model's folder."""
    (run,) = runs_of(client, experiment)
    (model,) = client.search_logged_models([run.info.experiment_id])
    return run, model, local_folder(model.artifact_location)


def is_pickle(file):
    content = file.read_bytes()
    return content[:1] == b"\x80" or content[:2] == b"PK" or file.suffix in (".pkl", ".pt", ".pth", ".ckpt", ".pickle")


def checkpoint_of(client, run):
    return read_checkpoint(str(local_folder(run.info.artifact_uri) / run.data.tags["checkpoint.best"]))


@pytest.mark.slow
def test_a_fit_ends_with_a_model_of_its_best_weights(store, client, run_cli, caplog):
    code, out, err = run_cli("fit", "-c", REGRESSOR, *QUICK, "--register", "diabetes")
    assert code == 0, err
    run, model, folder = only(client, "gradient_norm_regressor")
    assert f"model: models:/{model.model_id}, registered as diabetes" in caplog.messages
    assert "AnyType" not in out + err
    assert (model.status, model.source_run_id, model.model_type) == ("READY", run.info.run_id, "GradientNormRegressor")
    best = checkpoint_of(client, run)
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(model.model_id, best["global_step"])]

    scores = {metric.key: metric.value for metric in model.metrics}
    assert scores == {key: value for key, value in run.data.metrics.items() if key.startswith("test/")} != {}
    assert all(len(client.get_metric_history(run.info.run_id, key)) == 1 for key in scores)  # none came twice
    assert model.params["model.init_args.penalties.0.init_args.weight"] == "0.3"
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"MLmodel", "weights.safetensors", "config.yaml", "requirements.txt"}
    assert [file.name for file in files if is_pickle(file)] == []
    about = yaml.safe_load((folder / "MLmodel").read_text())
    assert set(about["flavors"]) == {"python_function"}
    assert about["flavors"]["python_function"]["loader_module"] == "gradgrad.tracking.served"
    pins = (folder / "requirements.txt").read_text().split()
    assert len(pins) > 10
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)

    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    signature = loaded.metadata.signature
    (taken,), (given,) = signature.inputs.inputs, signature.outputs.inputs
    assert (taken.name, str(taken.type), taken.shape, signature.params) == ("x", "float64", (-1, 10), None)
    assert (str(given.type), given.shape) == ("float32", (-1, 1))
    example = loaded.input_example
    assert {name: np.shape(array) for name, array in example.items()} == {"x": (1, 10)}
    x = np.random.default_rng(0).normal(50, 20, (7, 10))
    np.testing.assert_allclose(loaded.predict({"x": x}), by_hand(best["state_dict"], x), rtol=1e-5)
    assert loaded.predict(example).shape == (1, 1)
    with pytest.raises(Refusal, match=re.escape("x has shape [1, 3]; expected [-1, 10], where -1 is any number.")):
        loaded.predict({"x": [[1.0, 2.0, 3.0]]})

    version = client.get_model_version("diabetes", 1)
    assert (version.run_id, version.status) == (run.info.run_id, "READY")
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "diabetes", "version": version.version}]
    np.testing.assert_array_equal(mlflow.pyfunc.load_model("models:/diabetes/1").predict({"x": x}), loaded.predict({"x": x}))
    code, _, err = run_cli("test", "-c", REGRESSOR, *QUICK[1:], "--ckpt_path", "best", "--register", "diabetes")
    assert code == 0, err
    assert client.get_model_version("diabetes", 2).run_id == run.info.run_id
    np.testing.assert_array_equal(mlflow.pyfunc.load_model("models:/diabetes/2").predict({"x": x}), loaded.predict({"x": x}))


def by_hand(state, x):
    """The regressor of the config, from its numbers alone."""
    s = {name: value.double().numpy() for name, value in state.items()}
    hidden = (x - s["standardize_x.mean"]) / s["standardize_x.std"]
    layers = sorted({name.rpartition(".")[0] for name in s if name.startswith("network.")})
    first, second = ((s[f"{layer}.weight"], s[f"{layer}.bias"]) for layer in layers)
    out = np.tanh(hidden @ first[0].T + first[1]) @ second[0].T + second[1]
    return out * s["standardize_y.std"] + s["standardize_y.mean"]


@pytest.mark.slow
def test_a_meta_learner_adapts_before_it_answers(store, client, run_cli):
    code, _, err = run_cli("fit", "-c", CONFIGS / "maml_sinusoid.yaml", *MAML)
    assert code == 0, err
    run, model, folder = only(client, "maml_sinusoid")
    assert [file.name for file in folder.rglob("*") if file.is_file() and is_pickle(file)] == []
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    signature = loaded.metadata.signature
    assert {spec.name: (str(spec.type), spec.shape) for spec in signature.inputs.inputs} == dict.fromkeys(
        ("support_x", "support_y", "query_x"), ("float64", (-1, 1))
    )
    assert {spec.name: spec.default for spec in signature.params.params} == {"inner_steps": 1, "inner_lr": 0.01}
    state = {name: value for name, value in checkpoint_of(client, run)["state_dict"].items() if name.startswith("network.")}
    x = np.linspace(-5, 5, 10)[:, None]
    task = {"support_x": x, "support_y": np.sin(x), "query_x": x[:3] + 0.1}
    for params in ({}, {"inner_steps": 0}, {"inner_steps": 4, "inner_lr": 0.05}):
        expected = adapted(state, task, **params)
        np.testing.assert_allclose(loaded.predict(task, params=params or None), expected, rtol=1e-4, atol=1e-6)
    sentence = "unknown param 'inner_step'; expected inner_steps, inner_lr; did you mean inner_steps?"
    with pytest.raises(Refusal, match=re.escape(sentence)):
        loaded.predict(task, params={"inner_step": 3})


def adapted(state, task, inner_steps=1, inner_lr=0.01):
    """Gradient steps on the support set, written out, for a network of three layers and relu."""
    params = [value.double().clone().requires_grad_() for value in state.values()]
    x, y, query = (torch.from_numpy(task[name]) for name in ("support_x", "support_y", "query_x"))

    def answers(params, x):
        for number in (0, 2):
            x = torch.relu(x @ params[number].T + params[number + 1])
        return x @ params[4].T + params[5]

    for _ in range(inner_steps):
        slopes = torch.autograd.grad((answers(params, x) - y).square().mean(), params)
        params = [(p - inner_lr * g).detach().requires_grad_() for p, g in zip(params, slopes, strict=True)]
    return answers(params, query).detach()


class Stranger(LightningModule):
    """As other people write them; ``extra`` would need a pickle."""

    def __init__(self, extra: bool = False):
        super().__init__()
        self.net, self.example_input_array, self.extra = nn.Linear(2, 1), torch.zeros(1, 2), extra

    def forward(self, x):
        return self.net(x)

    def state_dict(self, *args, **kwargs):
        return super().state_dict(*args, **kwargs) | ({"odd": {1, 2}} if self.extra else {})


def trained(module, **init_args):
    config = {"class_path": f"{__name__}.{type(module).__name__}", "init_args": init_args}
    return TrainedModel(module, config, module.state_dict(), {}, 7)


@pytest.fixture
def run(store):
    logger = MLflowLogger("one")
    logger.log_metrics({"val/loss": 1.0}, 1)
    logger.flush()
    yield logger.run
    logger.finalize()


TRAINER = SimpleNamespace(datamodule=None)


def test_a_strangers_module_is_stored_and_comes_back(run, client):
    module = Stranger()
    x = np.random.default_rng(0).normal(size=(3, 2))
    first = log_model(run.id, trained(module, extra=False), TRAINER)
    expected = module(torch.from_numpy(x).float()).detach().numpy()
    with torch.no_grad():
        module.net.weight.zero_()  # what was logged stays as it was
    np.testing.assert_array_equal(mlflow.pyfunc.load_model(f"models:/{first}").predict({"x": x}), expected)
    assert client.get_logged_model(first).name == "model"


def test_what_is_stored_holds_no_secret_and_nothing_of_the_users_folder(run, client, project):
    (project / "pyproject.toml").write_text("[[tool.uv.index]]\nurl = 'https://me:planted-secret@index.example'\n")
    (project / "uv.lock").write_text("planted-secret")
    config = trained(Stranger())
    config.config["init_args"]["token"] = "planted-secret"
    model_id = log_model(run.id, config, TRAINER)
    folder = local_folder(client.get_logged_model(model_id).artifact_location)
    found = {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert "config.yaml" in found
    assert [name for name, content in found.items() if b"planted-secret" in content] == []


def test_a_state_that_needs_a_pickle_leaves_no_model(run, client):
    with pytest.raises(UsageError, match=r"^its state has odd, which is no tensor and would need a pickle$"):
        log_model(run.id, trained(Stranger(extra=True), extra=True), TRAINER)
    assert client.search_logged_models([client.get_run(run.id).info.experiment_id]) == []


def test_a_store_that_fails_leaves_a_model_that_says_so(run, client, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", lambda *_: (_ for _ in ()).throw(ConnectionError("gone")))
    with pytest.raises(NotStoredError, match=r"^gone$"):
        log_model(run.id, trained(Stranger()), TRAINER)
    (model,) = client.search_logged_models([client.get_run(run.id).info.experiment_id])
    assert model.status == "FAILED"


def test_a_name_that_the_registry_would_refuse_is_refused_before_the_training(project, client, run_cli):
    check_name("my-model 2")
    code, out, said = run_cli("fit", "-c", REGRESSOR, *QUICK, "--register", "a/b")
    assert (code, out, runs_of(client)) == (2, "", [])
    assert re.fullmatch(
        r"gradgrad fit: --register 'a/b' is no name for MLflow's registry: .*\n"
        r"expected: a name without slash and colon\n"
        r"write:    --register my-model",
        said,
    )
