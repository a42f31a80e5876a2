"""What is known of one trial."""

import json
from pathlib import Path
from typing import Any

from gradgrad.trial import PRUNE, Order, read_values


class TrialFolder:
    """The files of one trial: what it is to do, its values, its log, how it ended.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def result(self) -> dict[str, Any] | None:
        """How it ended; None where it has not, or was interrupted."""
        file = self.path / "result.json"
        try:
            found: dict[str, Any] = json.loads(file.read_text())
        except (OSError, ValueError):
            return None
        return None if found["status"] == "interrupted" else found

    @property
    def values(self) -> list[float]:
        """Of the objective, in the order of steps."""
        return list(read_values(self.path).values())

    @property
    def interruption(self) -> str:
        """Why it was interrupted, if it said so."""
        try:
            return str(json.loads((self.path / "result.json").read_text())["reason"])
        except (OSError, ValueError, KeyError):
            return ""

    def prepare(self, order: Order) -> None:
        """Get ready for another process.

        Args:
            order: for it.
        """
        for name in ("result.json", PRUNE):
            (self.path / name).unlink(missing_ok=True)
        order.save()

    def prune(self) -> None:
        """Ask it to stop."""
        (self.path / PRUNE).touch()
