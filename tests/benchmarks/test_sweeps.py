"""Trials per minute: ours on processes and on Ray, beside Ray Tune with the same training, in one run: `make bench`."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml

BASE = Path(__file__).parents[2] / "configs" / "gradient_norm_regressor.yaml"
WEIGHT = "model.penalties.0.init_args.weight"
TRIALS, PARALLEL = 12, 2
GOALS = "goals: local at least twice Ray Tune; a grid of 40 at most 1.5 times its ideal; overhead of a trial at most 0.5 s"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.max_epochs=20"]
ALONE = f"""
import sys, time
import gradgrad.sweeps.preload
import torch
torch.set_num_threads(1)
from gradgrad.training import train
for number in range(4):
    began = time.monotonic()
    train("fit", ["-c", {str(BASE)!r}, f"--{WEIGHT}=0.{{number}}", *{QUIET}])
    print("took", time.monotonic() - began)
"""
TUNE = f"""
import os, time
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
from ray import tune
folder = os.getcwd()
def training(config):
    os.chdir(folder)
    import torch
    torch.set_num_threads(1)
    from gradgrad.training import train
    train("fit", ["-c", {str(BASE)!r}, f"--{WEIGHT}={{config['weight']}}", *{QUIET}])
    tune.report({{"value": 1.0}})
ray.init(num_cpus={PARALLEL}, include_dashboard=False, log_to_driver=False)
space = {{"weight": tune.grid_search([n / 10 for n in range({TRIALS})])}}
tune.Tuner(tune.with_resources(training, {{"cpu": 1}}), param_space=space).fit()
"""


def sweep(folder, launcher, trials):
    base = str(BASE)
    file = folder / f"{launcher}{trials}.yaml"
    tree = {
        "base": base, "overrides": {"trainer.max_epochs": 20}, "space": {WEIGHT: [n / 10 for n in range(trials)]},
        "objective": {"metric": "val/rmse"}, "sampler": "grid", "parallel": PARALLEL, "launcher": launcher,
    }  # fmt: skip
    file.write_text(yaml.safe_dump(tree))
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "gradgrad", "sweep", "run", "-c", file.name], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    whole = time.monotonic() - began
    results = [
        json.loads(found.read_text()) for found in (folder / "mlruns" / "sweeps" / file.stem / "trials").glob("*/result.json")
    ]
    assert [result["status"] for result in results] == ["finished"] * trials
    return whole, sum(result["seconds"] for result in results) / trials


def test_trials_per_minute(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    alone = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    fit = sorted(float(line.split()[1]) for line in alone.stdout.splitlines() if line.startswith("took"))[1]
    print(f"\n`gradgrad fit` once everything is imported: {fit:.2f} s")
    print(f"{'':28} {'trials':>6} {'seconds':>8} {'a minute':>8} {'times ideal':>11} {'a fit, s':>8}")
    for name, launcher, trials in (("local", "local", TRIALS), ("Ray", "ray", TRIALS), ("local, 40 points", "local", 40)):
        whole, mean = sweep(tmp_path, launcher, trials)
        ideal = trials * fit / PARALLEL
        print(f"{name:28} {trials:6} {whole:8.1f} {60 * trials / whole:8.1f} {whole / ideal:11.2f} {mean:8.2f}", flush=True)
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", TUNE], cwd=tmp_path, env=environment, check=True, capture_output=True)
    whole = time.monotonic() - began
    print(f"{'Ray Tune':28} {TRIALS:6} {whole:8.1f} {60 * TRIALS / whole:8.1f} {whole / (TRIALS * fit / PARALLEL):11.2f}")
    print(GOALS)
    shutil.rmtree(tmp_path / "mlruns")
