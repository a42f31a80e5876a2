"""Every sweep that is shipped: it begins with its command, its cost and its expected result, and it runs."""

import json
import os
from pathlib import Path

import pytest
import yaml

from conftest import CONFIGS, REPOSITORY, runs_of

FOLDER = CONFIGS / "sweeps"
META = {
    **{"trainer.max_steps": 4, "trainer.log_every_n_steps": 1, "model.iterations_per_step": 1},
    **{"data.iterations_per_epoch": 2, "data.meta_batch_size": 2, "data.eval_tasks": 4},
}
# What makes each short, beside two points and one seed.
SHORT = {
    "inner_learning_rate": META,
    "penalties_uci": {"trainer.max_epochs": 1},
    "penalty_weight": {"trainer.max_epochs": 1},
    "sharpness_vs_learning_rate": {"trainer.max_steps": 4, "trainer.log_every_n_steps": 1},
}


def test_every_sweep_is_known_to_this_test():
    assert sorted(FOLDER.iterdir()) == [FOLDER / f"{name}.yaml" for name in sorted(SHORT)]


@pytest.fixture
def run_sweep(project, run_cli, monkeypatch):
    """Run one in this process; its trials are processes, forked off one server that all tests of this file share."""
    monkeypatch.setattr("gradgrad.sweeps.report.figures", lambda study: {})  # they take seconds, and have tests of their own

    def call(file):
        overrides = {**yaml.safe_load(file.read_text()).get("overrides", {}), **SHORT[file.stem], "log_model": False}
        words = ["--trials=2", "--seeds=[0]", f"--overrides={json.dumps(overrides)}"]
        return run_cli("sweep", "run", "-c", file, *words)

    return call


@pytest.mark.parametrize("name", sorted(SHORT))
def test_a_sweep(run_sweep, run_cli, client, name):
    file = FOLDER / f"{name}.yaml"
    command, cost, expected = file.read_text().splitlines()[:3]
    assert command == f"# gradgrad sweep run -c {file.relative_to(REPOSITORY)}"
    assert cost.startswith("# Cost: ")
    assert expected.startswith("# Expected: ")
    if name == "penalties_uci" and not os.environ.get("GRADGRAD_DATA"):
        pytest.skip("GRADGRAD_DATA is not set")
    code, said, complaints = run_sweep(file)
    assert code == 0, said + complaints
    (parent,) = (run for run in runs_of(client, name) if run.data.tags.get("sweep.role") == "parent")
    trials = [run for run in runs_of(client, name) if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.data.tags["point"] for run in trials) == ["0", "1"]
    assert parent.info.status == "FINISHED"
    assert all(run.info.status == "FINISHED" or "pruned" in run.data.tags for run in trials)
    objective = yaml.safe_load(file.read_text())["objective"]
    name, at = objective["metric"], {"best": min, "last": lambda values: values[-1]}[objective["at"]]
    values = [
        [m.value for m in client.get_metric_history(run.info.run_id, name)] for run in trials if "pruned" not in run.data.tags
    ]
    assert parent.data.metrics[f"best/{name}"] == min(at(each) for each in values)
    best = Path("mlruns", "sweeps", file.stem, "best.yaml")
    assert best.read_text().startswith(f"# gradgrad fit -c {best}\n")
    code, config, complaints = run_cli("fit", "-c", best, "--print_config")
    assert code == 0, complaints
    assert set(yaml.safe_load(config)) >= {"trainer", "model", "data"}
