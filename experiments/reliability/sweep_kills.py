"""Kill -9 what runs a sweep, or fill its disk, and count its points: `python experiments/reliability/sweep_kills.py`."""

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from mlflow import MlflowClient

HERE = Path(__file__).parent
BASE = HERE.parents[1] / "configs" / "gradient_norm_regressor.yaml"
COLUMNS = ["killed", "launcher", "kills", "trials", "finished", "lost", "doubled", "same value", "resumed", "commands", "seconds"]
WEIGHT = "model.penalties.0.init_args.weight"


def sweep_file(folder: Path, points: int, epochs: int, launcher: str) -> Path:
    """Write a grid whose trainings save often."""
    callbacks = yaml.safe_load(BASE.read_text())  # its callbacks would only take time
    del callbacks["trainer"]["callbacks+"]
    base = folder / "base.yaml"
    base.write_text(yaml.safe_dump({**callbacks, "config": str(BASE.with_name("base.yaml"))}))
    sweep = {
        "base": "base.yaml",
        "overrides": {"trainer.max_epochs": epochs, "trainer.callbacks.1.init_args.every_seconds": 0.5},
        "space": {WEIGHT: [round(0.1 * number, 3) for number in range(points)]},
        "seeds": [0, 1],
        "objective": {"metric": "val/rmse"},
        "sampler": "grid",
        "parallel": 2,
        "launcher": launcher,
    }
    file = folder / "kills.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return file


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start the sweep, or go on with it: the command is the same."""
    command = [sys.executable, "-m", "gradgrad", "sweep", "run", "-c", "kills.yaml"]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    with folder.with_name("sweep.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def trials(folder: Path, training: bool = False) -> dict[str, psutil.Process]:
    """Find the living trials by the process that each has written down; if asked for, only those that have reported a value."""
    found = {}
    for file in (folder / "mlruns" / "sweeps" / "kills" / "trials").glob("*/process.json"):
        with suppress(ValueError, psutil.Error, OSError):
            written = json.loads(file.read_text())
            process = psutil.Process(int(written["process.pid"]))
            begun = not training or (file.parent / "values.jsonl").exists()
            if (
                begun
                and abs(process.create_time() - float(written["process.started"])) < 1
                and not (file.parent / "result.json").exists()
            ):
                found[file.parent.name] = process
    return found


def kill_driver(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Of the sweep."""
    process.send_signal(signal.SIGKILL)


def kill_trial(process: subprocess.Popen[bytes], folder: Path) -> None:
    """One of those that run, with all that it has started; if one trains already, that one."""
    victim = random.choice(list((trials(folder, training=True) or trials(folder)).values()))
    os.killpg(victim.pid, signal.SIGKILL)


def kill_node(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Of Ray, as if its machine lost power: the raylet with its workers and their trials at once."""
    for raylet in psutil.Process(process.pid).children(recursive=True):
        if "raylet" in raylet.name():
            for victim in (raylet, *raylet.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    victim.kill()


def fill_disk(process: subprocess.Popen[bytes], folder: Path) -> None:
    """To the last byte, until the sweep has given up."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        while process.poll() is None:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
            time.sleep(0.05)
    filler.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Keep the folder in memory, 100 MB of it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


KILLS = {"sweep": kill_driver, "trial": kill_trial, "Ray node": kill_node, "disk full": fill_disk}
LOCAL = ("nothing", "sweep", "trial", "disk full")
FAULTS = [*((what, "local") for what in LOCAL), ("trial", "ray"), ("Ray node", "ray")]


def suffer(folder: Path, victims: Sequence[str], seed: int, longest: float = 4.0) -> tuple[int, int]:
    """Run the sweep to its end in spite of one kill after another; give the commands that it took, and the kills.

    They come up to ``longest`` seconds after a trial has begun; with 0, as soon as it has reported a value.
    """
    random.seed(seed)
    process, commands, waiting, killed = start(folder), 1, list(victims), Counter[str]()
    while True:
        while process.poll() is None and not (waiting and trials(folder, not longest)):
            time.sleep(0.05)
        time.sleep(random.uniform(0.0, longest) if waiting and process.poll() is None else 0.0)
        there = trials(folder, not longest) if waiting else {}
        if process.poll() is None and there and max(killed[name] for name in there) < 2:  # the third time it counts as failed
            what = waiting.pop(0)
            KILLS[what](process, folder)
            if what == "trial":
                killed.update(list(there))
                time.sleep(2.0)
            else:
                process.wait()
        if process.poll() == 0:
            return commands, len(victims) - len(waiting)
        if process.poll() is not None:
            process = start(folder)
            commands += 1


def count(folder: Path, reference: dict[int, float] | None) -> tuple[dict[str, Any], dict[int, float]]:
    """Compare what is there with what should be."""
    client = MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("kills")
    runs = client.search_runs([experiment.experiment_id], "tags.trial != ''", max_results=1000)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "mlruns" / "sweeps" / "kills" / "journal.log"))
    )
    study = optuna.load_study(study_name="kills", storage=storage)
    points = Counter(point.user_attrs["settings"][WEIGHT] for point in study.trials)
    expected = yaml.safe_load((folder / "kills.yaml").read_text())
    numbers = Counter(int(run.data.tags["trial"]) for run in runs)
    wanted = range(len(expected["space"][WEIGHT]) * len(expected["seeds"]))
    twice = sum(
        len(history) - len({metric.step for metric in history})
        for run in runs
        for history in [client.get_metric_history(run.info.run_id, "train/loss")]
    )
    values = {int(run.data.tags["trial"]): run.data.metrics["test/rmse"] for run in runs if "test/rmse" in run.data.metrics}
    complete = [point for point in study.trials if point.state == optuna.trial.TrialState.COMPLETE]
    return {
        "trials": len(wanted),
        "finished": sum(run.info.status == "FINISHED" for run in runs),
        "lost": sum(number not in numbers for number in wanted) + len(expected["space"][WEIGHT]) - len(complete),
        "doubled": sum(number - 1 for number in (*points.values(), *numbers.values())) + twice,
        "same value": "-" if reference is None else sum(values.get(number) == reference[number] for number in wanted),
        "resumed": sum("resumed" in run.data.tags for run in runs),
    }, values


def main() -> None:
    """Kill, count, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    rows, reference = [], None
    for what, launcher in FAULTS:
        if options.only and what != "nothing" and options.only not in f"{what}, {launcher}":
            continue
        with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
            folder, began = Path(temporary) / "project", time.monotonic()
            folder.mkdir()
            if what == "disk full":
                stack.enter_context(small_disk(folder))
            sweep_file(folder, options.points, options.epochs, launcher)
            victims = [] if what == "nothing" else [what] * options.kills
            commands, kills = suffer(folder, victims, seed=0)
            found, values = count(folder, reference)
            reference = reference or values
        row = {"killed": what, "launcher": launcher, "kills": kills, **found}
        rows.append({**row, "commands": commands, "seconds": round(time.monotonic() - began)})
        print(rows[-1], flush=True)
    with (HERE / "sweep_kills.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
