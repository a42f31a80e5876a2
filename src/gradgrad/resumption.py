"""`gradgrad fit --resume`, from the command line to the trainer."""

import shlex
import warnings
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser

from gradgrad.callbacks import LastCheckpoint, Resumable
from gradgrad.checkpoint_io import WholeCheckpointIO
from gradgrad.checkpoints import model_config
from gradgrad.errors import UsageError
from gradgrad.origin import Origin, check_prolonged, find_origin
from gradgrad.tracking.drift import Change, changes, recorded
from gradgrad.tracking.logger import MLflowLogger
from gradgrad.tracking.recorder import tracked_logger
from gradgrad.tracking.resume import logged_points
from gradgrad.tracking.resumed_run import ResumedRun
from gradgrad.tracking.secrets import redact_arguments


def add_resume_flag(parser: LightningArgumentParser) -> None:
    """Add ``--resume``.

    Args:
        parser: of the verb.
    """
    help_ = "Go on: auto (the newest unfinished run of the experiment), the id of a run, a checkpoint file, or never."
    parser.add_argument("--resume", type=str, default="never", help=help_)


class Resumption:
    """What a fit goes on with; nothing, where it begins anew.

    Args:
        origin: where it goes on.
        trained: the config that was trained, to be parsed before what the command line overrides.
    """

    def __init__(self, origin: Origin | None, trained: dict[str, Any]) -> None:
        self.origin, self.trained = origin, trained
        self.config: dict[str, Any] = {}
        self.drift: list[Change] = []

    @classmethod
    def of(cls, config: Namespace, experiment_name: str, arguments: Sequence[str]) -> "Resumption":
        """Find it.

        Args:
            config: as the command line and its files say.
            experiment_name: of this command line.
            arguments: what follows the verb.

        Returns:
            The resumption.

        Raises:
            UsageError: there are two checkpoints, or what is asked for cannot be resumed.
        """
        if config.resume != "never" and config.ckpt_path:
            raise UsageError(
                f"--resume {config.resume} and --ckpt_path {config.ckpt_path} name two checkpoints.\nwrite: one of them"
            )
        origin = find_origin(config.resume, experiment_name)
        if origin is None:
            return cls(None, {})
        trained = model_config(origin.checkpoint) if origin.run is None else recorded(origin.run.config, arguments)
        return cls(origin, trained)

    def decide(self, whole: Namespace, parser: LightningArgumentParser) -> None:
        """Compare the config with that of the run.

        Args:
            whole: of all verbs, parsed with what was trained; its checkpoint is set.
            parser: that parsed it.
        """
        config = whole.fit
        config.resume = "never"  # what is recorded says how to begin such a run
        if self.origin is None:
            return
        config.ckpt_path = self.origin.checkpoint
        self.config = yaml.safe_load(parser.dump(whole, skip_unset=False, skip_validation=True))["fit"]
        if self.origin.run is None:  # a new run, with a config of its own; but the checkpoint brings states of optimizers
            model = changes(self.trained, {"model": self.config.get("model")}) if self.trained else ()
            self.drift = [change for change in model if change.old is not None]
            return
        old = self.origin.run.config
        self.drift = list(changes(old, self.config)) if old else []
        check_prolonged(self.origin.run, self.drift)

    def prepare(self, trainer: Trainer, command: Sequence[str]) -> None:
        """Let the trainer write checkpoints that can be resumed.

        Args:
            trainer: Lightning's.
            command: the command line, beginning with the verb.

        Raises:
            UsageError: it has no logger for the run that goes on.
        """
        if trainer.strategy.checkpoint_io.__class__ is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpointIO()
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if (logger := tracked_logger(trainer.loggers)) is not None:
            run = self.origin.run if self.origin else None
            said = shlex.join(["gradgrad", *redact_arguments(command)])
            callbacks.append(ResumedRun(logger, run.number if run else 0, self.drift, self.config, said))
        elif self.origin is not None and self.origin.run is not None:
            raise UsageError(
                f"run {self.origin.run.run_id} cannot go on without its logger, gradgrad.tracking.MLflowLogger.\n"
                "write: --resume without another --trainer.logger, or --ckpt_path <file> for a training that is not tracked"
            )
        savers = [callback for callback in callbacks if isinstance(callback, ModelCheckpoint)]
        taken = any(isinstance(saver, LastCheckpoint) or saver.save_last or saver.filename == "last" for saver in savers)
        if savers and not taken and logger is not None:  # a config without ours can be resumed too
            callbacks.append(LastCheckpoint())
        if not any(isinstance(callback, Resumable) for callback in callbacks):
            callbacks.append(Resumable())  # the last: it restores random states that others have drawn from

    def attach(self, logger: MLflowLogger) -> None:
        """Log into the run that goes on.

        Args:
            logger: of this process.
        """
        if self.origin is not None and self.origin.run is not None:
            run_id = self.origin.run.run_id
            logger.resume(run_id, *logged_points(run_id))
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # it is to be so
