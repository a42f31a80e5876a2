"""Trainings that are killed with -9 at a random step and resumed, against one that is not: weights and curves, bit for bit.

python experiments/reliability/resume.py [--points 10] [--cases regressor maml spectrum noisy] [--out FOLDER]
"""

import argparse
import csv
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from killed import fit

from gradgrad.tracking.store import open_store

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--log_model=false"]
OFTEN = ["--trainer.callbacks.1.init_args.every_seconds=0.02", "--trainer.callbacks.1.init_args.share=1"]
CLOCK = ("seconds", "per_second", "system/", "step_time")  # names of what no seed decides


class Case(NamedTuple):
    """A training.

    Attributes:
        arguments: of ``gradgrad fit``.
        steps: that it makes.
        experiment: its name.
    """

    arguments: list[str]
    steps: int
    experiment: str


CASES = {
    "regressor": Case(
        ["-c", str(CONFIGS / "gradient_norm_regressor.yaml"), "--trainer.max_epochs=6"], 60, "gradient_norm_regressor"
    ),
    "spectrum": Case(
        [
            *("-c", str(CONFIGS / "gradient_norm_regressor.yaml"), "--trainer.max_epochs=4"),
            *("--trainer.callbacks.3.init_args.every_n_steps=3", "--trainer.callbacks.3.init_args.k=2"),
            *("--trainer.callbacks.3.init_args.density_every=5", "--trainer.callbacks.3.init_args.trace_probes=4"),
        ],
        40,
        "gradient_norm_regressor",
    ),
    "maml": Case(
        [
            *("-c", str(CONFIGS / "maml_sinusoid.yaml"), "--trainer.max_steps=400", "--model.compile=false"),
            *("--model.iterations_per_step=10", "--data.iterations_per_epoch=150", "--data.eval_tasks=60"),
        ],
        400,
        "maml_sinusoid",
    ),
    "noisy": Case(["-c", str(HERE / "noisy.yaml"), "--trainer.max_epochs=10"], 40, "noisy"),
}


class Result(NamedTuple):
    """What a run left.

    Attributes:
        state: the last checkpoint's ``state_dict``.
        curve: by metric, its history as (step, value).
        status: MLflow's.
        resumed: at which step it went on; None where it was never resumed.
    """

    state: dict[str, Any]
    curve: dict[str, list[tuple[int, float]]]
    status: str
    resumed: int | None


def new_home(store: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a project folder.

    Args:
        store: an empty database, made once: that takes seconds.

    Returns:
        The folder, gone when the block ends.
    """
    home = tempfile.TemporaryDirectory()
    (Path(home.name) / "mlruns").mkdir()
    shutil.copy(store, Path(home.name) / "mlruns" / "mlflow.db")
    return home


def read(folder: Path, experiment: str) -> Result:
    """Read the newest run of a store.

    Args:
        folder: where it was started.
        experiment: its experiment.

    Returns:
        Weights, curve and status; the clock's metrics are left out.
    """
    import torch
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    run = client.search_runs([found.experiment_id], order_by=["attributes.start_time DESC"])[0]
    keys = [key for key in run.data.metrics if not any(word in key for word in CLOCK)]
    history = {key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)] for key in keys}
    checkpoint = folder / "mlruns" / "artifacts" / experiment / run.info.run_id / "artifacts" / run.data.tags["checkpoint.last"]
    step = run.data.tags.get("resumed.1", "").removeprefix("step ")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    curve = {key: sorted(points) for key, points in history.items()}
    return Result(state, curve, run.info.status, int(step) if step else None)


def compare(whole: Result, other: Result) -> dict[str, int]:
    """Count what differs.

    Args:
        whole: of the training that was not killed.
        other: of the one that was.

    Returns:
        Weights, points that differ or are missing, points that are twice there.
    """
    import torch

    weights = sum(not torch.equal(whole.state[key], other.state.get(key, torch.empty(0))) for key in whole.state)
    wrong = sum(
        len(set(map(repr, whole.curve.get(key, []))) ^ set(map(repr, other.curve.get(key, []))))
        for key in {**whole.curve, **other.curve}
    )
    twice = sum(len(points) - len({step for step, _ in points}) for points in other.curve.values())
    return {"weights that differ": weights, "points that differ": wrong, "points twice": twice}


def main() -> int:
    """Try all cases and write the table.

    Returns:
        0 where everything is equal.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.update(OMP_NUM_THREADS="1", MLFLOW_TRACKING_URI="")
    random.seed(options.seed)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, (options.out / "resume.csv").open("w", newline="") as file:
        store = Path(folder) / "mlflow.db"
        open_store(f"sqlite:///{store}")._tracking_client.store.engine.dispose()
        for name in options.cases:
            case = CASES[name]
            arguments = [*case.arguments, *QUIET, *OFTEN]
            with new_home(store) as home:
                fit(Path(home), arguments)
                whole = read(Path(home), case.experiment)
            for _ in range(options.points):
                with new_home(store) as home:
                    row = {"case": name, **interrupted(Path(home), case, arguments, whole)}
                writer = csv.DictWriter(file, fieldnames=list(row))
                if not rows:
                    writer.writeheader()
                writer.writerow(row)
                file.flush()
                rows.append(row)
                print(row, flush=True)
    bad = ("weights that differ", "points that differ", "points twice")
    return int(any(row[key] for row in rows for key in bad) or any(not row["killed"] for row in rows))


def interrupted(home: Path, case: Case, arguments: Sequence[str], whole: Result) -> dict[str, Any]:
    """Kill a training at a random step and resume it.

    Args:
        home: project folder.
        case: of training.
        arguments: of ``gradgrad fit``.
        whole: what the uninterrupted one left.

    Returns:
        A row of the table.
    """
    at = random.randrange(1, case.steps)
    killed = fit(home, arguments, at) == -signal.SIGKILL
    fit(home, [*arguments, "--resume", "auto"])
    after = read(home, case.experiment)
    row = {"killed at": at, "killed": killed, "resumed at": after.resumed, "status": after.status}
    return {**row, "points": sum(map(len, after.curve.values())), **compare(whole, after)}


if __name__ == "__main__":
    sys.exit(main())
