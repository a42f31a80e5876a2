"""A launcher whose trials end at once: what the driver makes of them needs no training."""

import errno
import json
import os
import re
import signal
from pathlib import Path
from typing import ClassVar

from gradgrad.sweeps.launchers import Launcher
from gradgrad.trial import PRUNE, Report

WEIGHT = "model.optimizer.init_args.weight_decay"


class Ended:
    """A trial, as long as it takes."""

    def __init__(self, looks=1, act=lambda: None):
        self.looks, self.act = looks, act

    def done(self):
        self.looks -= 1
        if self.looks == 0:
            self.act()
        return self.looks <= 0

    def stop(self):
        self.looks = 1


class Instant(Launcher):
    """The objective is (weight - 1)^2 + seed / 100.

    Args:
        fail: weights that fail.
        nan: weights whose objective is NaN.
        die: how many processes of each trial die without a word.
        unlogged: whether the metric is logged at all.
        steps: values that a trial reports, one per look, the objective coming nearer.
        interrupt: number of launches after which the driver is interrupted.
        hang: whether trials go on until they are stopped.
        full: number of launches after which the disk is full.
    """

    launched: ClassVar = []

    def __init__(
        self,
        fail: list[float] | None = None,
        nan: list[float] | None = None,
        die: int = 0,
        unlogged: bool = False,
        steps: int = 1,
        interrupt: int = 0,
        hang: bool = False,
        full: int = 0,
    ):
        self.fail, self.nan, self.die, self.unlogged = fail or [], nan or [], die, unlogged
        self.steps, self.interrupt, self.hang, self.full = steps, interrupt, hang, full

    def open(self, parallel):
        Instant.launched.clear()

    def launch(self, order, slot):
        if self.full and len(Instant.launched) == self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        Instant.launched.append(order)
        if self.interrupt and len(Instant.launched) == self.interrupt:
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C
        folder = Path(order.folder)
        found = re.search(rf"--{re.escape(WEIGHT)}=(\S+)", " ".join(order.arguments))
        weight = float(found[1]) if found else 0.0
        value = (weight - 1) ** 2 + int(order.tags["seed"]) / 100
        if sum(before.folder == order.folder for before in Instant.launched) <= self.die:
            return Ended()
        report = Report(order)

        def end():
            if (folder / PRUNE).exists():
                result = {"status": "pruned", "value": None, "reason": ""}
            elif weight in self.fail:
                result = {"status": "failed", "value": None, "reason": "ValueError: as planned\nsecond line"}
            elif weight in self.nan:
                result = {"status": "failed", "value": None, "reason": "val/rmse is nan at step 3"}
            elif self.unlogged:
                result = {"status": "failed", "value": None, "reason": report.missing(), "unlogged": True}
            else:
                result = {"status": "finished", "value": value, "step": 9, "run_id": "f" * 32, "reason": ""}
            (folder / "result.json").write_text(json.dumps({**result, "seconds": 0.1}))

        for step in range(1, self.steps + 1):
            report.hear({"val/rmse": value + self.steps - step}, step)
        return Ended(10**9 if self.hang else 3, (lambda: None) if self.hang else end)
