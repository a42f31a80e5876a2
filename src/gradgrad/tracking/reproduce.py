"""`gradgrad reproduce RUN_ID`: bring code, environment and run back, and compare."""

import shutil
import subprocess
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from gradgrad.errors import UsageError
from gradgrad.tracking.agreement import agreement
from gradgrad.tracking.recorded import RecordedRun, read_run
from gradgrad.tracking.reproduction import REPRODUCES, Reproduction, reproduction
from gradgrad.tracking.secrets import redact
from gradgrad.tracking.store import FOLDER, tracking_uri
from gradgrad.tracking.verb import Parser

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def reproduce(arguments: Sequence[str]) -> int:
    """Print the commands that bring a run back; run them if asked to.

    Args:
        arguments: the run's id, ``--run``, ``--folder``.

    Returns:
        0; with ``--run`` 1 if a command failed or the numbers differ.

    Raises:
        UsageError: the run, or its code, is not to be had.
    """
    expected = "gradgrad reproduce RUN_ID [--run] [--folder FOLDER]"
    parser = Parser("gradgrad reproduce", expected, "Print the commands that bring a run's code, environment and result back.")
    parser.add_argument("run_id", metavar="RUN_ID", help="of MLflow, as `gradgrad ui` shows it")
    parser.add_argument("--run", action="store_true", help="do it, and compare the metrics of the new run with the recorded ones")
    parser.add_argument("--folder", type=Path, default=None, help="where to; default: a new one in mlruns/reproduced/")
    options = parser.parse_args(arguments)
    uri = tracking_uri()
    client, run = read_run(uri, options.run_id)
    try:
        plan = reproduction(run, _folder(options.folder, run.id), uri)
    finally:
        if run.remote:
            shutil.rmtree(run.artifacts)
    _show(run, plan)
    if not options.run:
        return 0
    if plan.obstacles:
        raise UsageError(
            f"run {run.id} cannot be brought back by itself: {plan.obstacles[0]}.\n"
            "write: the printed commands, with what is missing put in by hand"
        )
    return _run(client, run, plan)


def _folder(given: Path | None, run_id: str) -> Path:
    home = Path.cwd() / FOLDER / "reproduced"
    numbered = (home / f"{run_id}{f'-{number}' if number > 1 else ''}" for number in count(1))
    folder = Path.cwd() / given if given else next(folder for folder in numbered if not folder.exists())
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"--folder {given} is not empty.\nwrite: --folder <one that is not there yet>, or leave it out")
    return folder


def _show(run: RecordedRun, plan: Reproduction) -> None:
    started = run.tags.get(f"command.{run.verb}", "")
    lines = [f"# run {run.id} ({run.run.info.status}), started by: {started}"]
    lines += [f"# {remark}" for remark in (*plan.remarks, *plan.obstacles)]
    print(redact("\n".join([*lines, *plan.commands])), flush=True)  # noqa: T201


def _run(client: "MlflowClient", run: RecordedRun, plan: Reproduction) -> int:
    began = int(time.time() * 1000)
    for command in plan.commands:
        if code := subprocess.run(command, shell=True, check=False).returncode:
            print(redact(f"stopped: exit code {code} of: {command}"))  # noqa: T201
            return 1
    wanted = f"tags.{REPRODUCES} = '{run.id}' and attributes.start_time >= {began}"
    found = client.search_runs([run.run.info.experiment_id], wanted, max_results=1)
    if not found:
        print(f"the new run is not in experiment {run.run.info.experiment_id}; `gradgrad sync` may bring it")  # noqa: T201
        return 1
    second = found[0]
    judgement = agreement(client, run.run, second)
    print(f"run {second.info.run_id} against run {run.id}: {judgement.sentence}")  # noqa: T201
    if _data(run.run) != _data(second):
        print("the data are not those of the recorded run: their digests differ")  # noqa: T201
    return 0 if judgement.identical else 1


def _data(run: "Run") -> set[tuple[str, str]]:
    return {(part.dataset.name, part.dataset.digest) for part in (run.inputs.dataset_inputs if run.inputs else [])}
