"""What a run records of its origin."""

import json

import pytest
import torch

from conftest import QUICK, REGRESSOR, runs_of
from gradgrad.tracking import provenance
from gradgrad.tracking.provenance import versions

FIT = ["fit", "-c", REGRESSOR, *QUICK, "--trainer.callbacks=null", "--test_after_fit=false"]


def provenance_of(project, run):
    folder = project / "mlruns" / "artifacts" / "gradient_norm_regressor" / run.info.run_id / "artifacts" / "provenance"
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_a_run_records_where_it_comes_from(project, run_cli, client, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    code, _, complaint = run_cli(*FIT, "--seed_everything=7", "--model.network.init_args.hidden=[7]")
    assert code == 0, complaint
    (run,) = runs_of(client)
    files = provenance_of(project, run)
    assert set(files) == {"config.diff", "diff.patch", "untracked.txt", "requirements.txt", "environment.json"}
    diff = files["config.diff"].splitlines()
    assert {"-seed_everything: 0", "+seed_everything: 7", "-trainer.max_epochs: 100", "+trainer.max_epochs: 2"} <= set(diff)
    assert {"-model.init_args.network.init_args.hidden: [50]", "+model.init_args.network.init_args.hidden: [7]"} <= set(diff)
    assert not [line for line in diff if "experiment_name" in line]
    environment = json.loads(files["environment.json"])
    assert environment["seed"] == "7"
    assert environment["torch"]["threads"] == 3
    assert environment["trainer"]["precision"] == "32-true"
    assert f"torch=={torch.__version__}" in files["requirements.txt"].splitlines()
    assert run.data.tags["git.patch"].partition(":")[0] in ("none", "whole", "scrubbed", "cut")
    assert "provenance.missing" not in run.data.tags


def test_without_overrides_nothing_differs_from_the_files(project, run_cli, client):
    own = project / "own.yaml"
    quick = {argument.lstrip("-").partition("=")[0]: argument.partition("=")[2] for argument in FIT[3:-1]}
    lines = [f"  {key.removeprefix('trainer.')}: {value}" for key, value in quick.items()]
    own.write_text("\n".join([f"config: {REGRESSOR}", "test_after_fit: false", "trainer:", *lines, ""]))
    code, _, complaint = run_cli("fit", "-c", own)
    assert code == 0, complaint
    (run,) = runs_of(client, "own")
    folder = project / "mlruns" / "artifacts" / "own" / run.info.run_id / "artifacts" / "provenance"
    assert (folder / "config.diff").read_text() == ""


def test_what_cannot_be_recorded_stops_nothing(project, run_cli, client, monkeypatch, caplog):
    def fail(*_):
        raise OSError("no such file: ghp_abcdEFGH12345678abcd")

    monkeypatch.setattr(provenance, "packages", fail)
    code, _, _ = run_cli(*FIT)
    assert code == 0
    (run,) = runs_of(client)
    assert set(provenance_of(project, run)) == {"config.diff", "diff.patch", "untracked.txt", "environment.json"}
    sentence = "requirements.txt: no such file: ***"
    assert run.data.tags["provenance.missing"] == sentence
    assert f"not recorded of run {run.info.run_id}: {sentence}" in caplog.text


@pytest.mark.parametrize("name", ["torch", "lightning", "mlflow"])
def test_versions(name):
    from importlib.metadata import version

    assert versions()[f"version.{name}"] == version(name)
