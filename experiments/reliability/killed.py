"""`gradgrad fit` as a process that is killed with -9 in mid-training."""

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMPORTED = [
    *("gradgrad.training", "gradgrad.modules", "gradgrad.datamodules", "gradgrad.callbacks"),
    *("mlflow", "matplotlib.pyplot", "sklearn.datasets"),
]


def fit(folder: Path, arguments: Sequence[str], kill_at: int | None = None) -> int:
    """Run ``gradgrad fit`` as a process of its own, forked from one that has imported everything and computed nothing.

    Args:
        folder: to stand in.
        arguments: what follows the verb.
        kill_at: the step after which it kills itself, within some milliseconds; None lets it end.

    Returns:
        Its exit code.

    Raises:
        RuntimeError: it ended in another way than it was to.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)  # only the first call counts
    process = multiprocessing.get_context("forkserver").Process(target=child, args=(folder, arguments, kill_at))
    process.start()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError((folder / "output.txt").read_text())
    return process.exitcode


def child(folder: Path, arguments: Sequence[str], kill_at: int | None) -> None:
    """Be the process that is killed.

    Args:
        folder: to stand in.
        arguments: of ``gradgrad fit``.
        kill_at: step; None lives.
    """
    from lightning.pytorch import Trainer

    from gradgrad.cli import main
    from gradgrad.training import TrainingCLI

    os.chdir(folder)
    with Path("output.txt").open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    trainers: list[Trainer] = []
    make = TrainingCLI.instantiate_trainer

    def remember(self: TrainingCLI, **kwargs: Any) -> Trainer:
        trainers.append(make(self, **kwargs))
        return trainers[-1]

    def watch(step: int) -> None:
        while not (trainers and trainers[0].global_step >= step):
            time.sleep(0.0002)
        time.sleep(random.Random().uniform(0, 0.01))  # not from the stream that the training draws from
        os.kill(os.getpid(), signal.SIGKILL)

    TrainingCLI.instantiate_trainer = remember  # type: ignore[method-assign]
    if kill_at is not None:
        threading.Thread(target=watch, args=(kill_at,), daemon=True).start()
    sys.exit(main(["fit", *arguments]))
