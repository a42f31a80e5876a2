"""Fixtures: a project folder of one's own, with a store that is there already (making one takes seconds)."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("shared", deadline=None)  # a busy machine is no failing test
settings.load_profile("shared")

REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"
REGRESSOR = CONFIGS / "gradient_norm_regressor.yaml"
QUICK = ["--trainer.max_epochs=2", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture
def one_thread():
    """For ratios: a busy neighbour costs less."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def template_store(tmp_path_factory):
    from gradgrad.tracking.store import open_store

    database = tmp_path_factory.mktemp("template") / "mlflow.db"
    client = open_store(f"sqlite:///{database}")
    client._tracking_client.store.engine.dispose()
    return database


@pytest.fixture
def project(tmp_path, monkeypatch, template_store):
    """An empty folder to stand in, with an empty store."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlruns").mkdir()
    shutil.copy(template_store, tmp_path / "mlruns" / "mlflow.db")
    return tmp_path


@pytest.fixture
def client(project):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")


@pytest.fixture
def run_cli(capsys):
    """Call the command line in this process; gives exit code, what it printed, what it complained of."""
    from gradgrad.cli import main

    def call(*arguments):
        before = signal.getsignal(signal.SIGTERM)
        code = main([str(argument) for argument in arguments])
        assert signal.getsignal(signal.SIGTERM) is before
        out, err = capsys.readouterr()
        noise = ("Seed set", "GPU available", "TPU available", "💡", "Restoring states", "Loaded model")
        lines = [line for line in err.splitlines() if line.strip() and not line.startswith(noise)]
        return code, out, "\n".join(lines)

    return call


@pytest.fixture
def start_cli(project):
    """Start the command line as a process of its own."""
    started = []

    def start(*arguments, **environment):
        command = [sys.executable, "-m", "gradgrad", *(str(argument) for argument in arguments)]
        paths = os.pathsep.join([str(project), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            command,
            cwd=project,
            env={**os.environ, "PYTHONPATH": paths, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,  # so that what it starts itself ends with it
            # A background job ignores Ctrl-C and hands that on; the command under test must not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def reliability():
    """Give a module of experiments/reliability, by a name under which a process of its own finds it again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "experiments" / "reliability"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        before = set(sys.modules)
        yield importlib.import_module
        for name in {path.stem for path in (REPOSITORY / "experiments" / "reliability").glob("*.py")} - before:
            sys.modules.pop(name, None)


def runs_of(client, experiment="gradient_norm_regressor"):
    """All runs of an experiment, newest first."""
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []
