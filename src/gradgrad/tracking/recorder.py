"""What a run records of itself before its first step, for any module and any datamodule."""

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from typing_extensions import override

from gradgrad.arguments import expand_includes, is_config
from gradgrad.batches import DataPart
from gradgrad.errors import UsageError
from gradgrad.tracking.logger import MLflowLogger
from gradgrad.tracking.names import name_experiment
from gradgrad.tracking.provenance import record_provenance
from gradgrad.tracking.ranks import report_failure
from gradgrad.tracking.secrets import redact, redact_arguments, redact_tree
from gradgrad.tracking.store import FOLDER
from gradgrad.tracking.verdict import verdict


class RunRecorder(SaveConfigCallback):
    """Record config, code, versions and data, and put the checkpoints among the run's artifacts.

    LightningCLI makes it: its own callback saves the config into the logger's folder, where a second run finds the first
    one's and stops (Lightning issue 20184).

    Args:
        parser: of the verb.
        config: resolved.
        command: the command line, beginning with the verb.
        kwargs: as ``SaveConfigCallback`` takes them.
    """

    def __init__(self, parser: LightningArgumentParser, config: Any, command: Sequence[str] = ("fit",), **kwargs: Any) -> None:
        super().__init__(parser, config, **{**kwargs, "save_to_log_dir": False})
        self.command = list(command)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Place the checkpoints on all ranks, then record on rank zero.

        Args:
            trainer: Lightning's.
            pl_module: unused.
            stage: Lightning's.
        """
        if self.already_saved:
            return
        logger = tracked_logger(trainer.loggers)
        folder = trainer.strategy.broadcast(None if logger is None else _checkpoint_folder(logger))
        if logger is not None:
            logger.run.run_id = trainer.strategy.broadcast(logger.run.run_id)  # for the word of a rank that fails
            logger.run.world_size = trainer.world_size
        for callback in trainer.checkpoint_callbacks:
            if folder and isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = folder
        super().setup(trainer, pl_module, stage)

    @override
    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Record what is known before the first step.

        Args:
            trainer: Lightning's.
            pl_module: unused.
            stage: unused.
        """
        logger = tracked_logger(trainer.loggers)
        if logger is None:
            return
        verb = self.command[0]
        command = shlex.join(["gradgrad", *redact_arguments(self.command)])
        if logger.run.resumed:  # its config stands; ResumedRun records what has changed
            return
        if logger.run.attached:  # its config, code and data are those that it was trained with
            logger.run.log_tags({f"command.{verb}": command})
            return
        config = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        logger.log_config(config, f"# gradgrad {verb} -c config.yaml\n")
        logger.run.log_tags({f"command.{verb}": command})
        record_provenance(logger.run, trainer, lambda: self._shipped(config), config)
        data = getattr(trainer, "datamodule", None)
        if callable(provenance := getattr(data, "provenance", None)):
            log_data(logger, provenance())

    def _shipped(self, config: dict[str, Any]) -> dict[str, Any]:
        """Parse the config files alone; where they are no whole config, every key of the run is one of its own."""
        arguments = expand_includes(self.command[1:])
        files = [argument for argument in arguments if is_config(argument)]
        if files == arguments:
            return config
        try:
            shipped = self.parser.parse_args(files)
        except UsageError:
            return {}
        name_experiment(shipped.get("trainer.logger"), self.command[1:])
        plain: dict[str, Any] = yaml.safe_load(self.parser.dump(shipped, skip_unset=False, skip_validation=True))
        return plain

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remember when it failed; above rank zero, leave word of why.

        Args:
            trainer: Lightning's.
            pl_module: unused.
            exception: which ends it.
        """
        logger = tracked_logger(trainer.loggers)
        if logger is None:
            return
        logger.run.failed_at = time.time()
        if not trainer.is_global_zero and logger.run.run_id and verdict(exception).status == "FAILED":
            report_failure(logger.run.run_id, trainer.global_rank, exception)

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep secrets out of the hyperparameters that Lightning writes into checkpoints.

        Args:
            trainer: unused.
            pl_module: unused.
            checkpoint: about to be written.
        """
        for key in ("hyper_parameters", "datamodule_hyper_parameters"):
            if key in checkpoint:
                checkpoint[key] = redact_tree(dict(checkpoint[key]))


def log_data(logger: MLflowLogger, parts: Sequence[DataPart]) -> None:
    """Log which data a run saw, as MLflow's dataset inputs.

    Args:
        logger: of the run.
        parts: one per stage.
    """
    inputs = [
        {
            "name": redact(part.name),
            "digest": part.digest,
            "source_type": "local",
            "source": json.dumps({"uri": redact(part.source)}),
            "profile": json.dumps({"num_rows": part.rows}),
            "part": part.part,
        }
        for part in parts
    ]
    logger.run.put("inputs", inputs)


def tracked_logger(loggers: Sequence[Any]) -> MLflowLogger | None:
    """Find our logger among the trainer's.

    Args:
        loggers: the trainer's.

    Returns:
        The first of ours, or None.
    """
    return next((logger for logger in loggers if isinstance(logger, MLflowLogger)), None)


def _checkpoint_folder(logger: MLflowLogger) -> str | None:
    if logger.run_id is None:  # not rank zero: the broadcast brings the folder
        return None
    home = logger.run.artifact_dir or Path.cwd() / FOLDER / "uploading" / logger.run_id
    return str(home / "checkpoints")
