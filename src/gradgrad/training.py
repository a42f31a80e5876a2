"""LightningCLI's verbs (fit, validate, test, predict) and one of our own, each as one tracked run."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden
from typing_extensions import override

from gradgrad.alike import alike
from gradgrad.arguments import expand_includes, insert_config, set_item, split_indexed
from gradgrad.callbacks import SystemMetrics
from gradgrad.checkpoints import model_config, read_checkpoint, unloadable
from gradgrad.errors import UsageError
from gradgrad.logged_model import add_model_flags, check_model_flags, record_model
from gradgrad.origin import claims
from gradgrad.parser import Parser
from gradgrad.resumption import Resumption, add_resume_flag
from gradgrad.spectrum import SpectrumTrainer
from gradgrad.tracking.names import experiment_name, name_experiment, run_name
from gradgrad.tracking.recorder import RunRecorder, tracked_logger
from gradgrad.tracking.runs import ALIASES, find_run
from gradgrad.tracking.summary import print_summary
from gradgrad.tracking.verdict import Pruned, verdict
from gradgrad.trial import Report
from gradgrad.written import Written


class TrainingCLI(LightningCLI):
    """One verb of LightningCLI, run as it is constructed.

    Beside LightningCLI's own flags it has ``--threads``, ``--test_after_fit`` (fit) and ``--run_id`` (the others), takes list
    items by index (``--trainer.callbacks.0.init_args.monitor``), and understands ``--ckpt_path best|last`` in a new process.

    Args:
        verb: ``fit``, ``validate``, ``test``, ``predict`` or ``spectrum``.
        arguments: what follows the verb.
    """

    def __init__(self, verb: str, arguments: Sequence[str]) -> None:
        self.verb = verb
        self.arguments = list(arguments)
        Parser.written = Written.read(arguments)
        self.run_id: str | None = None
        self.alias: str | None = None
        self.report = Report.of_environment() if verb == "fit" else None
        super().__init__(
            trainer_class=SpectrumTrainer if verb == "spectrum" else Trainer,
            save_config_callback=RunRecorder,
            save_config_kwargs={"command": [verb, *arguments]},
            parser_class=Parser,
            # "--trainer.max_epoch" is a mistake, not an abbreviation
            parser_kwargs={"prog": "gradgrad", "allow_abbrev": False, verb: {"allow_abbrev": False}},
            trainer_defaults={"logger": {"class_path": "gradgrad.tracking.MLflowLogger"}},
            args=[verb, *arguments],
        )

    @override
    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Build the parser of one verb only: each costs a quarter of a second.

        Returns:
            The verb and the arguments that LightningCLI skips.
        """
        return {self.verb: {"model", "datamodule"} if self.verb == "spectrum" else LightningCLI.subcommands()[self.verb]}

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add this project's flags.

        Args:
            parser: of the verb.
        """
        help_ = "CPU threads that PyTorch computes with; default: its own choice. Small networks are faster with 1."
        parser.add_argument("--threads", type=PositiveInt | None, default=None, help=help_)
        add_model_flags(parser, self.verb)
        if self.verb == "fit":
            help_ = "Test the best checkpoint (or else the last weights) after fitting, in the same run."
            parser.add_argument("--test_after_fit", type=bool, default=True, help=help_)
            add_resume_flag(parser)
            parser.add_lightning_class_args(SystemMetrics, "system_metrics")
        else:
            help_ = "The run whose checkpoint to take and to log into; default: the newest of the experiment."
            parser.add_argument("--run_id", type=str, default=None, help=help_)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; then once more where the first pass shows that a checkpoint or a list index has a say.

        What was trained wins over config files (a checkpoint fits only the network and the data that made it), and the
        command line wins over both; so the recorded config goes in between and the same parser decides.

        Args:
            parser: of all verbs.
            args: verb and arguments.

        Raises:
            UsageError: a checkpoint that is not there.
        """
        arguments = expand_includes(self.arguments)
        self.config = self._parse(parser, arguments)
        config = self.config[self.verb]
        checkpoint, run_id = config.get("ckpt_path"), config.get("run_id")
        trained: dict[str, Any] = {}
        if run_id and checkpoint not in (None, *ALIASES):
            raise UsageError(
                f"--run_id {run_id} has checkpoints of its own.\nwrite: --ckpt_path best or last, or leave --run_id out"
            )
        if run_id or checkpoint in ALIASES:
            self.alias = checkpoint or "best"
            run = find_run(experiment_name(config.get("trainer.logger"), self.arguments), self.alias, run_id)
            trained = {key: run.config[key] for key in ("seed_everything", "model", "data") if key in run.config}
            checkpoint, self.run_id = str(run.checkpoint), None if self.verb == "fit" else run.run_id
        elif checkpoint and Path(checkpoint).is_file():
            trained = model_config(checkpoint)
        elif checkpoint and "://" not in checkpoint:
            raise UsageError(f"--ckpt_path {checkpoint}: no such file.\nexpected: best, last or a checkpoint file")
        if trained:
            self.config = self._parse(parser, insert_config(arguments, trained))
        self.config[self.verb].ckpt_path = checkpoint
        if self.verb == "fit":
            self.resumption = Resumption.of(config, experiment_name(config.get("trainer.logger"), self.arguments), self.arguments)
            if trained := self.resumption.trained:
                self.config = self._parse(parser, insert_config(arguments, trained))
            self.resumption.decide(self.config, parser)
        check_model_flags(self.config[self.verb])

    def _parse(self, parser: LightningArgumentParser, arguments: list[str]) -> Namespace:
        """Parse; overrides of list items come last, as a change to the whole, because jsonargparse knows no list items."""
        plain, indexed = split_indexed(arguments)
        if indexed:
            shown = [argument for argument in plain if argument.startswith("--print_config")]
            config = parser.parse_args([self.verb, *(argument for argument in plain if argument not in shown)])
            tree = yaml.safe_load(parser.dump(config, skip_unset=False))[self.verb]
            for name, value in indexed.items():
                set_item(tree, name, value)
            plain = insert_config(shown, tree)
        return parser.parse_args([self.verb, *plain])

    @override
    def _parse_ckpt_path(self) -> None:
        """Do nothing: Lightning would let the checkpoint win over the command line."""

    @override
    def before_instantiate_classes(self) -> None:
        """Set the threads; name the experiment after the config file and the run after what was overridden."""
        if self.config[self.verb].threads is not None:
            torch.set_num_threads(self.config[self.verb].threads)
        self.run_name = run_name(self.arguments, name_experiment(self.config[self.verb].get("trainer.logger"), self.arguments))

    @override
    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make the trainer.

        Args:
            kwargs: as LightningCLI gives them.

        Returns:
            Lightning's trainer.

        Raises:
            UsageError: the trainer refuses its settings, for example an accelerator that is not there.
        """
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, RuntimeError) as error:
            sentence = f"the trainer refuses its settings: {' '.join(str(error).split())}\nwrite: other trainer.*"
            callbacks = self._get(self.config_init, "trainer.callbacks") or []
            raise UsageError(alike(callbacks if isinstance(callbacks, list) else [callbacks]) or sentence) from error
        if isinstance(trainer, SpectrumTrainer):
            trainer.alias = self.alias
        if self.report is not None:
            trainer.callbacks.append(self.report)  # type: ignore[attr-defined]
        if self.verb == "fit":
            self.resumption.prepare(trainer, ["fit", *self.arguments])
        return trainer

    @override
    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb inside its tracked run; how it ends is how the run ends.

        Args:
            subcommand: the verb.

        Raises:
            SystemExit: with 130 or 143 after a signal.
            RuntimeError: a mistake that showed only in mid-training.
            Pruned: the sweep has stopped this training.
        """
        logger = tracked_logger(self.trainer.loggers)
        if logger is not None:
            if self.report is not None:
                self.report.attach(logger)
            logger.run.run_name = logger.run.run_name or self.run_name
            if subcommand == "fit":
                self.resumption.attach(logger)
            if self.run_id:
                logger.run.attach(self.run_id, read_checkpoint(self.config[self.verb].ckpt_path).get("global_step", 0))
        if self.verb != "fit" and not self.config[self.verb].ckpt_path:
            rank_zero_info(f"gradgrad {self.verb}: these weights are untrained; --ckpt_path best takes those of the newest run")
        try:
            with nullcontext() if logger is None else logger.hold():
                self._run_lightning(subcommand)
                if self.report is not None and self.report.pruned:
                    raise Pruned
                if subcommand == "fit" and self.config[subcommand].test_after_fit:
                    self._test()
                record_model(self.trainer, self.model, logger, subcommand, self.config_dump)
        except BaseException as error:
            end = (logger and logger.run.end) or verdict(error)
            if logger is not None and logger.version and not (isinstance(error, UsageError) and not logger.started):
                rank_zero_info(f"run {logger.version} is {end.status} ({end.reason}); what it had logged and saved is kept")
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise SystemExit(end.exit_code) from error
            if isinstance(error, UsageError) and logger is not None and logger.started:  # too late for exit code 2
                raise RuntimeError(str(error)) from None
            raise
        if logger is not None and self.trainer.is_global_zero and logger.version:
            print_summary(logger, values=subcommand != "spectrum")

    def _run_lightning(self, subcommand: str) -> None:
        self.config_init[subcommand].weights_only = True  # Lightning would execute whatever comes from an address
        try:
            super()._run_subcommand(subcommand)
        except MisconfigurationException as error:  # Lightning's own sentences, for example on clipping in manual optimization
            raise UsageError(f"{' '.join(str(error).split())}\nwrite: other trainer.*, or the model's own setting") from error
        except Exception as error:
            if sentence := unloadable(str(self.config[subcommand].ckpt_path), error):
                raise UsageError(sentence) from error
            raise

    def _test(self) -> None:
        data, best = self.datamodule, getattr(self.trainer.checkpoint_callback, "best_model_path", "") or None
        if is_overridden("test_step", self.model) and is_overridden("test_dataloader", self.model if data is None else data):
            self.trainer.test(self.model, datamodule=data, ckpt_path=best, weights_only=True)


def train(verb: str, arguments: Sequence[str]) -> int:
    """Run a verb of LightningCLI.

    Args:
        verb: ``fit``, ``validate``, ``test``, ``predict`` or ``spectrum``.
        arguments: what follows the verb.

    Returns:
        0; any other end raises.
    """
    with claims():
        TrainingCLI(verb, arguments)
    return 0
