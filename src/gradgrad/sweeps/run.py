"""`gradgrad sweep run`, from the sweep file to the best config."""

import errno
import json
import os
import shlex
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import optuna
import yaml

from gradgrad.errors import UsageError
from gradgrad.sweeps.driver import Driver
from gradgrad.sweeps.folder import SweepFolder, generations
from gradgrad.sweeps.launchers import Launcher
from gradgrad.sweeps.live import Live, Running
from gradgrad.sweeps.named import instance
from gradgrad.sweeps.proof import Command
from gradgrad.sweeps.report import publish
from gradgrad.sweeps.spec import Flags, Sweep, fingerprint
from gradgrad.sweeps.standing import best_line, standing
from gradgrad.sweeps.storage import open_storage
from gradgrad.sweeps.study import Points
from gradgrad.tracking.run import TrackedRun
from gradgrad.tracking.secrets import HIDDEN, redact, redact_arguments, redact_tree
from gradgrad.tracking.trial_runs import KEYS, ROLE, SWEEP, has_trials, parent_run
from gradgrad.written_whole import write_whole

PICTURES = 0.25  # seconds between two tables on the terminal


def run(sweep: Sweep, flags: Flags, arguments: Sequence[str], folder: SweepFolder | None = None) -> int:
    """Run a sweep, or go on with it.

    Args:
        sweep: as its file says.
        flags: of this command.
        arguments: of this command, for the next one.
        folder: of a sweep that is resumed by name.

    Returns:
        0; 1 where it ended before its time; 130 after Ctrl-C.

    Raises:
        UsageError: it cannot begin, or the disk is full.
        OSError: of another kind.
    """
    known = generations(sweep.name)
    if folder is None:
        number = 1 + max((int(name.rpartition("~")[2]) for name in known if "~" in name), default=1)
        new = f"{sweep.name}~{number}" if known else sweep.name
        folder = SweepFolder(new if flags.new or not known else known[-1])
    command = Command(sweep, folder.name)
    if flags.dry_run:
        command.prove()
        return _show(sweep, command)
    launcher: Launcher = instance(sweep.launcher, "launcher", Launcher)
    with folder.held():
        base = command.prove()
        points = Points(sweep, folder.name, open_storage(sweep.storage, folder.path))
        points.begin(fingerprint(sweep, base), str(folder.path))
        kept = [argument for argument in arguments if argument not in ("--new", "--retry_failed")]
        write_whole(folder.path / "sweep.json", json.dumps({"arguments": kept, "storage": sweep.storage}))
        if flags.retry_failed:
            points.retry()
        try:
            return _search(sweep, folder, points, command, launcher, arguments, base)
        except OSError as full:
            if full.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UsageError(
                f"the disk is full: {full.strerror}. What was finished is kept, what ran was stopped after a checkpoint.\n"
                f"write:    gradgrad sweep resume {folder.name}, once there is space"
            ) from full


def _search(
    sweep: Sweep,
    folder: SweepFolder,
    points: Points,
    command: Command,
    launcher: Launcher,
    arguments: Sequence[str],
    base: dict[str, Any],
) -> int:
    launcher.open(sweep.parallel)  # before there is a run, because it may refuse
    run = _parent(sweep, points, arguments, base)
    error: BaseException | None = None
    driver: Driver | None = None
    try:
        with Live(points.study, sweep.trials) as live:
            driver = Driver(sweep, folder, points, command, launcher, run.id, _seldom(live.update), live.say)
            driver.run()
    except BaseException as caught:
        error = caught
        raise
    finally:
        launcher.close()
        sentence = driver.sentence if driver else ""
        if driver is not None and error is None and driver.interrupted:
            error = KeyboardInterrupt()
        elif driver is not None and error is None and driver.failed:
            error = RuntimeError(sentence)
        try:
            _conclude(folder, points, command, run, error)
        except OSError:  # a full disk is the error that counts
            if error is None:
                raise
    if points.best() is None and not sentence and not error:
        failed = [point for point in points.all() if "reason" in point.user_attrs]
        why = f"; the last: {failed[-1].user_attrs['reason'].splitlines()[0]}" if failed else ""
        again = f"gradgrad sweep resume {folder.name} --retry_failed, once the reason is mended"
        sentence = f"no point has a value{why}\nwrite:    {again}"
    if sentence:
        print(redact(f"gradgrad sweep: {sentence}"))  # noqa: T201
    if not driver.failed and (sentence or any(True for _ in points.interrupted())):
        print(f"gradgrad sweep resume {folder.name} goes on with it")  # noqa: T201
    return 130 if driver.interrupted else 1 if driver.failed or points.best() is None else 0


def _conclude(folder: SweepFolder, points: Points, command: Command, run: TrackedRun, error: BaseException | None) -> None:
    """Say what was found: in the sweep's folder, in MLflow and on the terminal."""
    best, text = points.best(), None
    if best is not None:
        file = folder.path / "best.yaml"
        tree = command.config(best.user_attrs["settings"], points.sweep.seeds[0])
        said = f"{points.sweep.objective.metric} {best.value:.6g}, the mean over seeds {points.sweep.seeds}"
        head = f"# gradgrad fit -c {os.path.relpath(file)}\n# Point {best.number} of the sweep {folder.name}: {said}."
        text = f"{head}\n{yaml.safe_dump(tree, sort_keys=False)}"
        if HIDDEN in text:
            text = text.replace("\n", f"\n# Secrets are {HIDDEN} here: give them on the command line.\n", 1)
        write_whole(file, text)
    publish(run, points.study, text)
    run.close(error, 0)
    if best is not None:
        found = os.path.relpath(folder.path / "best.yaml")
        print(redact(f"{best_line(standing(points.study))}\ntrain it: gradgrad fit -c {found}"))  # noqa: T201


def _parent(sweep: Sweep, points: Points, arguments: Sequence[str], base: dict[str, Any]) -> TrackedRun:
    """Open the run that stands for the sweep, the same one each time."""
    name = points.study.study_name
    run = TrackedRun(name, name, {SWEEP: name, ROLE: "parent", KEYS: ",".join(sweep.space.keys)}, None)
    if (earlier := parent_run(name)) is not None:
        if not points.all() and has_trials(earlier):
            raise UsageError(
                f"MLflow has the runs of a sweep {name} that is not in mlruns/sweeps any more.\n"
                "expected: both or neither, else its points would be there twice\n"
                f"write:    a sweep file of another name; or delete the experiment {name} first"
            )
        run.resume(earlier)
    said = shlex.join(["gradgrad", "sweep", "run", *redact_arguments(list(arguments))])
    run.log_tags({"command.sweep": said})
    # Redacted as trees: what a text hides may end at a comma.
    for file, tree in (("sweep", yaml.safe_load(sweep.file.read_text())), ("base", base)):
        run.log_text(yaml.safe_dump(redact_tree(tree), sort_keys=False), f"sweep/{file}.yaml")
    return run


def _seldom(show: Callable[[Sequence[Running]], None]) -> Callable[[Sequence[Running]], None]:
    """Draw a few times a second only."""
    drawn = 0.0

    def maybe(running: Sequence[Running]) -> None:
        nonlocal drawn
        if time.monotonic() - drawn >= PICTURES or not running:
            drawn = time.monotonic()
            show(running)

    return maybe


def _show(sweep: Sweep, command: Command) -> int:
    """Print the trials: all of a grid; of a sampler those that do not depend on results."""
    points: list[dict[str, Any]]
    if sweep.is_grid:
        points, rest = list(islice(sweep.space.grid(), sweep.trials)), 0
    else:
        study = Points(sweep, "dry run", optuna.storages.InMemoryStorage())
        sampler = study.study.sampler
        ahead = getattr(sampler, "_n_startup_trials", sweep.trials or 0)  # before these, TPE and its like draw at random
        points = []
        while len(points) < min(ahead, sweep.trials or 0) and (trial := study.next()) is not None:
            points.append(trial.user_attrs["settings"])
        rest = (sweep.trials or 0) - len(points)
    for number, settings in enumerate(points):
        for index, seed in enumerate(sweep.seeds):
            said = shlex.join(redact_arguments(command.shown(settings, seed)))
            print(f"{number * len(sweep.seeds) + index:4}  {said}")  # noqa: T201
    if rest:
        print(f"and {rest} more points, which depend on the results of these")  # noqa: T201
    print(f"{sweep.trials} points x {len(sweep.seeds)} seeds, {sweep.parallel} at once; nothing was started")  # noqa: T201
    return 0
