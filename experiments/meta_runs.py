"""Run the rows of a study of meta-learners, each as `gradgrad fit` with some seeds, and collect their adaptation curves.

    python experiments/meta_runs.py experiments/sinusoid/study.yaml

Rows that are in results.csv already are not run again: delete lines of it to repeat them. It may be stopped at any time.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import load_text

from gradgrad.tracking.store import tracking_uri

CURVE = "adaptation_curve_test.csv"


def main(study: Path) -> None:
    """Run what is missing."""
    results = study.with_name("results.csv")
    plan = yaml.safe_load(study.read_text())
    for row in plan["rows"]:
        for seed in row["seeds"]:
            done = pd.read_csv(results) if results.exists() else pd.DataFrame({"row": [], "seed": []})
            if not ((done["row"] == row["name"]) & (done["seed"] == seed)).any():
                curve = run(plan["experiment"], row, seed)
                pd.concat([done, curve]).to_csv(results, index=False)
                print(row["name"], "seed", seed, curve.loc[:, "steps":].round(4).to_string(index=False), sep="\n", flush=True)


def run(experiment: str, row: dict[str, Any], seed: int) -> pd.DataFrame:
    """Train and test one learner."""
    settings = [
        f"--seed_everything={seed}",
        f"--trainer.logger.init_args.experiment_name={experiment}",
        *row.get("arguments", []),
    ]
    command = [sys.executable, "-m", "gradgrad", "fit", "-c", row["config"], *settings, "--trainer.enable_progress_bar=false"]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    client = MlflowClient(tracking_uri())
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    (newest,) = client.search_runs([found.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)
    path = f"{newest.info.artifact_uri}/{CURVE}"
    lines = [line.split(",") for line in load_text(path).splitlines()]
    curve = pd.DataFrame(lines[1:], columns=pd.Index(lines[0])).astype(float).astype({"steps": int, "diverged": int})
    return curve.assign(row=row["name"], seed=seed, seconds=round(seconds))[["row", "seed", "seconds", *curve.columns]]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
