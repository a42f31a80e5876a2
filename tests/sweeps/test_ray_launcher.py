"""Trials on Ray."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from conftest import runs_of
from gradgrad.errors import UsageError
from gradgrad.sweeps.ray_launcher import RayLauncher
from sweeps.test_driver import BASE

LR = "model.optimizer.init_args.lr"


def test_ray_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"^launcher ray: Ray is not installed.\nexpected: .*\nwrite:    pip install 'gradgrad"):
        RayLauncher().open(2)


def test_no_cluster_at_the_address():
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match=r"^launcher ray: no Ray at 127.0.0.1:1: .*refused\nwrite:    the address"):
        RayLauncher(address="127.0.0.1:1").open(2)


@pytest.mark.slow
def test_a_sweep_on_ray(project, run_cli, client):
    pytest.importorskip("ray")
    Path("base.yaml").write_text(BASE)
    tree = {
        "base": "base.yaml", "overrides": {"trainer.max_epochs": 1}, "space": {LR: [0.01, 0.1]},
        "objective": {"metric": "val/rmse"}, "sampler": "grid", "parallel": 2, "launcher": "ray",
    }  # fmt: skip
    Path("s.yaml").write_text(yaml.safe_dump(tree))
    code, _, said = run_cli("sweep", "run", "-c", "s.yaml")
    assert code == 0, said
    runs = [run for run in runs_of(client, "s") if "trial" in run.data.tags]
    assert sorted((run.data.tags["trial"], run.info.status) for run in runs) == [("0", "FINISHED"), ("1", "FINISHED")]
    results = [json.loads(file.read_text()) for file in Path("mlruns/sweeps/s/trials").glob("*/result.json")]
    assert {result["run_id"] for result in results} == {run.info.run_id for run in runs}
