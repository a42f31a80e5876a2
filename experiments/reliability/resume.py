"""Trainings that are killed with -9 at a random step and resumed, against one that is not: weights and curves, bit for bit.

python experiments/reliability/resume.py [--points 10] [--cases regressor maml spectrum noisy] [--out results]
"""

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
        ["-c", str(CONFIGS / "gradient_norm_regressor.yaml"), "--trainer.max_epochs=12"], 120, "gradient_norm_regressor"
    ),
    "spectrum": Case(
        [
            *("-c", str(CONFIGS / "gradient_norm_regressor.yaml"), "--trainer.max_epochs=6"),
            *("--trainer.callbacks.3.init_args.every_n_steps=3", "--trainer.callbacks.3.init_args.k=2"),
            *("--trainer.callbacks.3.init_args.density_every=5", "--trainer.callbacks.3.init_args.trace_probes=4"),
        ],
        60,
        "gradient_norm_regressor",
    ),
    "maml": Case(
        [
            *("-c", str(CONFIGS / "maml_sinusoid.yaml"), "--trainer.max_steps=600", "--model.compile=false"),
            *("--model.iterations_per_step=10", "--data.iterations_per_epoch=150", "--data.eval_tasks=60"),
        ],
        600,
        "maml_sinusoid",
    ),
    "noisy": Case(["-c", str(HERE / "noisy.yaml")], 80, "noisy"),
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


def fit(folder: Path, arguments: Sequence[str], kill_at: int | None = None) -> int:
    """Run ``gradgrad fit`` as a process.

    Args:
        folder: to stand in.
        arguments: what follows the verb.
        kill_at: the step after which it kills itself, within some milliseconds; None lets it end.

    Returns:
        Its exit code.

    Raises:
        RuntimeError: it ended in another way than it was to.
    """
    command = [sys.executable, __file__, "--child", str(-1 if kill_at is None else kill_at), *arguments]
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "MLFLOW_TRACKING_URI": ""}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if ended.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(ended.stdout + ended.stderr)
    return ended.returncode


def child(kill_at: int, arguments: Sequence[str]) -> int:
    """Be the process that is killed.

    Args:
        kill_at: step.
        arguments: of ``gradgrad fit``.

    Returns:
        Exit code, where it lives.
    """
    from lightning.pytorch import Trainer

    from gradgrad.cli import main
    from gradgrad.training import TrainingCLI

    trainers: list[Trainer] = []
    make = TrainingCLI.instantiate_trainer

    def remember(self: TrainingCLI, **kwargs: Any) -> Trainer:
        trainers.append(make(self, **kwargs))
        return trainers[-1]

    def watch() -> None:
        while not (trainers and trainers[0].global_step >= kill_at):
            time.sleep(0.0002)
        time.sleep(random.uniform(0, 0.01))
        os.kill(os.getpid(), signal.SIGKILL)

    TrainingCLI.instantiate_trainer = remember  # type: ignore[method-assign]
    if kill_at >= 0:
        threading.Thread(target=watch, daemon=True).start()
    return main(["fit", *arguments])


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
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    random.seed(options.seed)
    rows: list[dict[str, Any]] = []
    for name in options.cases:
        case = CASES[name]
        arguments = [*case.arguments, *QUIET, *OFTEN]
        with tempfile.TemporaryDirectory() as home:
            fit(Path(home), arguments)
            whole = read(Path(home), case.experiment)
        for _ in range(options.points):
            at = random.randrange(1, case.steps)
            with tempfile.TemporaryDirectory() as home:
                killed = fit(Path(home), arguments, at)
                fit(Path(home), [*arguments, "--resume", "auto"])
                after = read(Path(home), case.experiment)
            row = {"case": name, "killed at": at, "killed": killed == -signal.SIGKILL, "resumed at": after.resumed}
            rows.append({**row, "status": after.status, "points": sum(map(len, after.curve.values())), **compare(whole, after)})
            print(rows[-1], flush=True)
    with (options.out / "resume.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return int(any(row["weights that differ"] or row["points that differ"] or row["points twice"] for row in rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(int(sys.argv[2]), sys.argv[3:]))
    sys.exit(main())
