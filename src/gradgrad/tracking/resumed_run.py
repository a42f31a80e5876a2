"""The tracked run in checkpoints, and in it what a resumption changed."""

from collections.abc import Sequence
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from gradgrad.tracking.drift import Change, override_optimizers
from gradgrad.tracking.logger import MLflowLogger
from gradgrad.tracking.secrets import redact_tree

KEY = "gradgrad.run"
LONGEST = 4000  # characters of a tag; MLflow takes 8000


class ResumedRun(Callback):
    """Keep the logger's state in checkpoints; tell a resumed run what is other than before.

    Args:
        logger: of the run.
        number: of the resumption; 0 where the run is a new one.
        drift: what has changed.
        config: the whole of it, as it is now.
        command: the command line.
    """

    def __init__(
        self, logger: MLflowLogger, number: int = 0, drift: Sequence[Change] = (), config: Any = None, command: str = ""
    ) -> None:
        self.logger, self.number, self.drift, self.config, self.command = logger, number, list(drift), config, command

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write down whose checkpoint it is, and what the logger knows.

        Args:
            trainer: unused.
            pl_module: unused.
            checkpoint: about to be written.
        """
        checkpoint[KEY] = {"run_id": self.logger.version, "logger": self.logger.state}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the logger, let the command line win over the optimizers' states, and record both.

        Args:
            trainer: Lightning's.
            pl_module: unused.
            checkpoint: as it was read; its optimizers' states are changed.
        """
        if trainer.state.fn != "fit":
            return
        override_optimizers(checkpoint, self.drift)
        if not self.number:
            return
        if (saved := checkpoint.get(KEY)) is not None and saved["run_id"] in (None, self.logger.version):
            self.logger.restore(saved["logger"])
        if trainer.is_global_zero:
            self._record(int(checkpoint["global_step"]))

    def _record(self, step: int) -> None:
        rows = [{"key": key, "old": redact_tree(old), "new": redact_tree(new)} for key, old, new in self.drift]
        said = "; ".join(f"{row['key']}: {row['old']} -> {row['new']}" for row in rows)
        number = self.number
        tags = {"resumed": str(number), f"resumed.{number}": f"step {step}", f"command.resumed.{number}": self.command}
        if rows:
            tags[f"drift.{number}"] = said[:LONGEST]
        self.logger.run.log_tags(tags)
        tree = {"step": step, "drift": rows, "config": redact_tree(self.config)}
        text = f"# {self.command}\n{yaml.safe_dump(tree, sort_keys=False)}"
        self.logger.run.log_text(text, f"resumed-{self.number}.yaml")
        rank_zero_info(f"run {self.logger.version} goes on at step {step}" + (f", changed: {said}" if rows else ""))
