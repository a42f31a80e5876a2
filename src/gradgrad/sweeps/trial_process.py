"""The process of one trial: `gradgrad fit`, told what to do by an order, and telling its end by a file."""

import importlib.util
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from gradgrad.tracking.process import PID, is_alive, this_process
from gradgrad.trial import VARIABLE, Order, Report, result
from gradgrad.written_whole import write_whole

PATIENCE = 60.0  # seconds that a process may take to end in good order; a guess at a slow checkpoint


def run_trial(order: Order, path: Sequence[str] = ()) -> None:
    """Be the process of a trial, from its first moment to its last.

    Args:
        order: what to do.
        path: where the sweep looks for modules.
    """
    os.setsid()  # a group of its own: Ctrl-C in the terminal is the sweep's affair
    folder = Path(order.folder)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(order.cwd)
    os.environ.update({**order.environment, VARIABLE: order.folder})
    _end_with_the_sweep()
    sys.path += [place for place in path if place not in sys.path]
    random.seed()  # a fork has its parent's
    _take_the_place_of(["fit", *order.arguments])
    if order.threads:
        import torch

        os.environ["OMP_NUM_THREADS"] = str(order.threads)  # of what it starts
        torch.set_num_threads(order.threads)
    began = time.monotonic()
    end = _train(order)
    write_whole(folder / "result.json", json.dumps({**end, "seconds": round(time.monotonic() - began, 3)}, indent=1))


def _end_with_the_sweep() -> None:
    """End in good order when the process that asked for this one is gone."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="sweep").start()


def _take_the_place_of(command: list[str]) -> None:
    """Look like `python -m gradgrad`: Lightning starts further ranks by what the main module and ``sys.argv`` say."""
    spec = importlib.util.find_spec("gradgrad.__main__")
    assert spec is not None
    sys.argv = [str(spec.origin), *command]
    sys.modules["__main__"].__spec__ = spec


def _terminated(number: int, frame: Any) -> None:
    if signal.getsignal(number) is _terminated:  # else Lightning's own handler waits for the end of the step
        raise SystemExit(128 + number)


def _train(order: Order) -> dict[str, Any]:
    from gradgrad.origin import claims
    from gradgrad.tracking.secrets import redact
    from gradgrad.tracking.trial_runs import run_to_go_on_with
    from gradgrad.tracking.verdict import Pruned, verdict
    from gradgrad.training import TrainingCLI

    signal.signal(signal.SIGTERM, _terminated)
    folder = Path(order.folder)
    try:
        earlier = run_to_go_on_with(order.tags) if _another_was_before(folder) else None
        if earlier is not None and earlier.finished:  # it died with nothing left to do but to say so
            return _judged(Report(order), earlier.run_id)
        with claims():
            cli = TrainingCLI("fit", [*order.arguments, *(["--resume", earlier.run_id] if earlier else [])])
        return _judged(cli.report or Report(order), _run_id(folder))
    except BaseException as error:
        if isinstance(error, Pruned):
            return result("pruned", Report(order), reason="others did better at the same step", run_id=_run_id(folder))
        print(redact(traceback.format_exc()), file=sys.stderr, flush=True)  # noqa: T201  # into the trial's log
        reason = redact(f"{type(error).__name__}: {' '.join(str(error).split())}")[:1000]
        reason = f"out of memory: {reason}" if _out_of_memory(error) else reason
        status = "interrupted" if verdict(error).status == "KILLED" else "failed"
        return result(status, Report(order), reason=reason, run_id=_run_id(folder))


def _judged(report: Report, run_id: str | None) -> dict[str, Any]:
    """A value only where there is one: NaN is a failure."""
    objective, metric = report.objective, report.order.metric
    if objective is None:
        return result("failed", report, reason=report.missing(), run_id=run_id, unlogged=True)
    if not math.isfinite(objective[1]):
        return result("failed", report, reason=f"{metric} is {objective[1]} at step {objective[0]}", run_id=run_id)
    return result("finished", report, run_id=run_id)


def _run_id(folder: Path) -> str | None:
    file = folder / "run_id"
    return file.read_text() if file.exists() else None


def _another_was_before(folder: Path) -> bool:
    """A sweep that was killed leaves trials that are still about to end; two must not work on the same one."""
    file = folder / "process.json"
    before = json.loads(file.read_text()) if file.exists() else {}
    deadline = time.monotonic() + PATIENCE
    while is_alive(before) and time.monotonic() < deadline:
        time.sleep(0.05)
    if is_alive(before):
        with suppress(ProcessLookupError):
            os.killpg(int(before[PID]), signal.SIGKILL)
    write_whole(file, json.dumps(this_process()))
    return bool(before)


def _out_of_memory(error: BaseException) -> bool:
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)
