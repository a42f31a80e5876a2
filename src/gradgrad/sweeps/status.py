"""`gradgrad sweep status` and `gradgrad sweep best`."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradgrad.sweeps.short_names import short_settings, short_value
from gradgrad.sweeps.standing import Standing, best_line, counts_line, failures, standing, with_error, writable

if TYPE_CHECKING:
    from optuna.study import Study


def print_status(study: "Study", *, running: bool = False, total: int | None = None, console: Console | None = None) -> None:
    """Print how far a sweep is.

    Args:
        study: with the attributes that a sweep writes.
        running: whether a process runs it now.
        total: points that are to be tried; None means the study's attribute ``trials``, if it has one.
        console: None means standard output.
    """
    console = console or _console()
    now = standing(study)
    total = total or study.user_attrs.get("trials")
    left = total is None or sum(now.counts.get(status, 0) for status in ("finished", "failed", "pruned")) < total
    state = "runs" if running else "does not run" if left else "has ended"
    again = "" if running or not left else f"; gradgrad sweep resume {shlex.quote(study.study_name)} goes on with it"
    runs = f", {now.ended_runs} of {total * now.seeds} runs" if total else ""
    _say(console, f"sweep {study.study_name} {state}{again}", f"{counts_line(now, total)}{runs}", best_line(now))
    if running:
        _table(console, now)
    for point in failures(now):
        settings = short_settings(point.settings, now.names)
        _say(console, f"point {point.number} failed ({settings}): {point.reason.strip() or 'no reason is known'}")


def print_best(study: "Study", config: Path | None = None, *, console: Console | None = None) -> None:
    """Print the best point of a sweep.

    Args:
        study: with the attributes that a sweep writes.
        config: a file that trains it.
        console: None means standard output.
    """
    console = console or _console()
    now = standing(study)
    if not now.best:
        _say(console, f"sweep {study.study_name}: no point has finished; {counts_line(now, None)}")
        return
    best = now.best[0]
    _say(console, f"{now.metric} {with_error(best.mean, best.error)} at point {best.number} ({now.goal})")
    width = max(map(len, best.settings), default=0)
    _say(console, *(f"  {key:{width}}  {short_value(value, 400)}" for key, value in best.settings.items()))
    for seed, run in best.runs.items():
        if run["status"] == "finished":
            _say(console, f"  seed {seed}: {run['value']:.6g}, run {run.get('run_id')}")
    if config is not None and config.exists():
        _say(console, f"train it: gradgrad fit -c {shlex.quote(os.path.relpath(config))}")


def _table(console: Console, now: Standing) -> None:
    running = [
        (point, seed)
        for point in now.points
        for seed, run in point.runs.items()
        if (point.status, run["status"]) == ("running",) * 2
    ]
    if not running:
        return
    table = Table("point", "seed", "settings")
    for point, seed in running:
        cells = (str(point.number), str(seed), short_settings(point.settings, now.names))
        table.add_row(*(Text(writable(cell, console)) for cell in cells))
    console.print(table)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=1000)  # else it folds lines that a program reads


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(writable(line, console), highlight=False, markup=False, soft_wrap=True)
