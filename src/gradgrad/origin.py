"""Where `gradgrad fit --resume` goes on: which run, which checkpoint, and what may not be resumed."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from gradgrad.callbacks.resumable import KEY as STATE
from gradgrad.checkpoints import code_in, damage, read_checkpoint
from gradgrad.errors import UsageError
from gradgrad.tracking.drift import Change
from gradgrad.tracking.resume import Unfinished, certain_run, owner, unfinished_runs
from gradgrad.tracking.resumed_run import KEY
from gradgrad.tracking.store import FOLDER

TOLD = "GRADGRAD_RESUMED"  # what rank zero has found, for the processes that it starts
NEEDED = {"state_dict": dict, "loops": dict, "optimizer_states": list, "lr_schedulers": list, "global_step": int}
LIMITS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")


_HELD: list[FileLock] = []


@contextmanager
def claims() -> Iterator[None]:
    """Hold what is resumed in this block until its end.

    Yields:
        Nothing.
    """
    try:
        yield
    finally:
        while _HELD:
            _HELD.pop().release()


class Origin(NamedTuple):
    """Where a training goes on.

    Attributes:
        run: to log into; None where a new one begins from a checkpoint.
        checkpoint: file of this machine.
    """

    run: Unfinished | None
    checkpoint: str


def find_origin(resume: str, experiment_name: str) -> Origin | None:
    """Find what ``--resume`` means, on rank zero; other ranks that it starts are told.

    Args:
        resume: ``auto``, ``never``, the id of a run or a checkpoint file.
        experiment_name: of this command line.

    Returns:
        None where a new run begins from nothing.

    Raises:
        UsageError: it cannot be resumed.
    """
    if resume == "never":
        return None
    if getattr(rank_zero_only, "rank", 0) and TOLD in os.environ:
        run_id, checkpoint = json.loads(os.environ[TOLD])
        if checkpoint is None:
            return None
        return Origin(certain_run(run_id, experiment_name) if run_id else None, checkpoint)
    if resume == "auto":
        origin = _newest(experiment_name)
    elif Path(resume).is_file():
        origin = _from_file(Path(resume), experiment_name)
    elif "/" in resume or resume.endswith(".ckpt"):
        raise UsageError(f"--resume {resume}: no such file.\nexpected: auto, never, the id of a run, or a checkpoint file")
    else:
        run = certain_run(resume, experiment_name)
        checkpoint, said = _readable(run)
        if checkpoint is None:
            raise UsageError(f"--resume {resume}: no checkpoint of that run can be resumed.\n{said}\nwrite: --resume never")
        origin = _claimed(run, checkpoint)
        if origin is None:
            raise UsageError(f"--resume {resume}: another process resumes that run.\nwrite: --resume never, or end it first")
    told = (origin.run.run_id if origin.run else None, origin.checkpoint) if origin else (None, None)
    os.environ[TOLD] = json.dumps(told)
    return origin


def _newest(experiment_name: str) -> Origin | None:
    for run in unfinished_runs(experiment_name):
        if isinstance(run, str):
            rank_zero_info(f"--resume auto: {run}")
            continue
        checkpoint, said = _readable(run)
        if checkpoint is None:
            rank_zero_info(f"--resume auto: run {run.run_id} is passed over: no checkpoint of it can be resumed. {said}")
        elif origin := _claimed(run, checkpoint):
            return origin
    rank_zero_info(f"--resume auto: experiment {experiment_name!r} has no unfinished run with a checkpoint; a new run begins")
    return None


def _from_file(file: Path, experiment_name: str) -> Origin:
    run_id = owner(file)
    try:
        saved = checked(file, run_id)
    except UsageError as error:
        raise UsageError(f"--resume {file.name}: {error}\nwrite: another file, or --resume auto") from error
    if run_id is None:
        rank_zero_info(f"--resume {file.name}: the file belongs to no run; a new run begins from its step {saved['global_step']}")
        return Origin(None, str(file))
    origin = _claimed(certain_run(run_id, experiment_name), file)
    if origin is None:
        raise UsageError(f"--resume {file.name}: another process resumes its run.\nwrite: --resume never, or end it first")
    return origin


def _readable(run: Unfinished) -> tuple[Path | None, str]:
    """Take the first checkpoint that can be resumed; tell of those that cannot, and of what one of them does not bring back."""
    said: list[str] = []
    for file in run.checkpoints:
        try:
            saved = checked(file, run.run_id)
        except UsageError as error:
            said.append(str(error))
            continue
        if saved.get(STATE, {}).get("at", "within") == "within":
            rank_zero_info(
                f"{file.name} was saved within an epoch: the run goes on with the next one, and the rest of it is missing"
            )
        if said:
            rank_zero_info(f"{'; '.join(said)}; {file.name} of step {saved['global_step']} is taken")
        return file, ""
    return None, "; ".join(said)


def checked(file: Path, run_id: str | None) -> dict[str, Any]:
    """Read a checkpoint that is to be resumed.

    Args:
        file: to read, without running any code in it.
        run_id: the run that it must come from; None means any.

    Returns:
        What Lightning wrote.

    Raises:
        UsageError: a sentence on what is wrong with it, without a remedy.
    """
    try:
        saved = read_checkpoint(str(file))
    except UsageError as error:
        cause = error.__cause__
        assert isinstance(cause, Exception)
        code = code_in(cause)
        why = f"it holds code ({code}), which was not run" if code else damage(cause)
        raise UsageError(f"{file.name} cannot be read ({why})") from error
    if not isinstance(saved, dict):
        raise UsageError(f"{file.name} cannot be resumed (it is no checkpoint of Lightning's)")
    if missing := [key for key, kind in NEEDED.items() if not isinstance(saved.get(key), kind)]:
        raise UsageError(f"{file.name} cannot be resumed (it has no {missing[0]})")
    writer = saved.get(KEY, {}).get("run_id")
    if run_id is not None and writer not in (None, run_id):
        raise UsageError(f"{file.name} is another run's ({writer})")
    return saved


def _claimed(run: Unfinished, checkpoint: Path) -> Origin | None:
    """Hold the run against other processes that would resume it too; ranks above zero follow theirs."""
    if getattr(rank_zero_only, "rank", 0):
        return Origin(run, str(checkpoint))
    folder = Path.cwd() / FOLDER / "resuming"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{run.run_id}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        rank_zero_info(f"run {run.run_id} is passed over: another process resumes it")
        return None
    _HELD.append(lock)
    return Origin(run, str(checkpoint))


def check_prolonged(run: Unfinished, drift: Sequence[Change]) -> None:
    """Insist that a finished run is given more to do.

    Args:
        run: to be resumed.
        drift: what the command line changes.

    Raises:
        UsageError: it is not.
    """
    if run.status == "FINISHED" and not any(change.key in LIMITS for change in drift):
        trainer = run.config.get("trainer", {})
        key = "max_epochs" if trainer.get("max_epochs") not in (None, -1) else "max_steps"
        raise UsageError(
            f"run {run.run_id} is FINISHED: it has trained as long as it was to ({key} {trainer.get(key)}).\n"
            f"write: --trainer.{key} <more> to prolong it, or --resume never for a new run"
        )
