"""What the other processes of a run have to say when they fail: rank zero alone writes to MLflow."""

import time
import traceback
from pathlib import Path
from typing import NamedTuple

from gradgrad.tracking.secrets import redact
from gradgrad.tracking.spool import spool_folder

PATIENCE = 5.0  # seconds that rank zero waits for the word of a rank whose end it has felt; a guess


class RankFailure(NamedTuple):
    """Why a process ended.

    Attributes:
        rank: its number.
        kind: type of the exception.
        traceback: as Python prints it.
    """

    rank: int
    kind: str
    traceback: str


def report_failure(run_id: str, rank: int, error: BaseException) -> None:
    """Leave word of an exception for rank zero.

    Args:
        run_id: MLflow's.
        rank: of this process.
        error: what ends it.
    """
    text = redact("".join(traceback.format_exception(error)))
    file = spool_folder() / f"{run_id}.rank{rank}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    partial.write_text(f"{time.time()}\n{type(error).__name__}\n{text}")
    partial.replace(file)


def first_failure(run_id: str, before: float, patience: float = PATIENCE) -> RankFailure | None:
    """Take the words of the other ranks.

    Args:
        run_id: MLflow's.
        before: when rank zero itself failed, in seconds since 1970; what failed later followed from it.
        patience: seconds to wait for a word.

    Returns:
        The earliest, for the others followed from it; None where no rank failed earlier, or it had no time to say so.
    """
    deadline = time.monotonic() + patience
    while not (files := _files(run_id)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if files:
        time.sleep(0.2)  # for one that failed earlier and writes later
    found = []
    for file in _files(run_id):
        when, kind, text = file.read_text().split("\n", 2)
        found.append((float(when), RankFailure(int(file.name.rpartition(".rank")[2].removesuffix(".txt")), kind, text)))
        file.unlink()
    found = [each for each in found if each[0] < before]
    return min(found, key=lambda each: each[0])[1] if found else None


def _files(run_id: str) -> list[Path]:
    return list(spool_folder().glob(f"{run_id}.rank*.txt"))
