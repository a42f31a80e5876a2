"""Prove the keys of a sweep, and all their bounds, by the parser that each trial will have."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from typing_extensions import override

from gradgrad.arguments import expand_includes, on_one_line
from gradgrad.errors import UsageError
from gradgrad.sweeps.space_file import plainly
from gradgrad.sweeps.spec import Sweep
from gradgrad.tracking.secrets import redact_tree
from gradgrad.training import TrainingCLI

QUIET = ("trainer.enable_progress_bar", "trainer.enable_model_summary")


class Command:
    """The command line of a sweep's trials.

    Args:
        sweep: to be run.
        experiment_name: of the runs.
    """

    def __init__(self, sweep: Sweep, experiment_name: str) -> None:
        self.sweep, self.experiment_name = sweep, experiment_name
        self.logger = "trainer.logger"
        self._parsed: _Parsed | None = None

    def arguments(self, settings: Mapping[str, Any], seed: int | None) -> list[str]:
        """Write it.

        Args:
            settings: value by key.
            seed: of the trial; None leaves the base's.

        Returns:
            What follows ``gradgrad fit``.
        """
        files = [word for base in self.sweep.base for word in ("-c", base)]
        quiet = {key: False for key in QUIET if key not in self.sweep.overrides}
        own = {} if seed is None else {"seed_everything": seed}
        logger = {f"{self.logger}.init_args.experiment_name": self.experiment_name}
        words = {**self.sweep.overrides, **settings, **own, **quiet, **logger}
        return [*files, *(f"--{key}={_word(words[key])}" for key in _outer_first(list(words)))]

    def shown(self, settings: Mapping[str, Any], seed: int | None) -> list[str]:
        """Write what a person would type for the same training.

        Args:
            settings: value by key.
            seed: of the trial; None leaves the base's.

        Returns:
            The command line, without what only serves the sweep.
        """
        added = (f"--{self.logger}.init_args.experiment_name=", *(f"--{key}=" for key in QUIET))
        words = [os.path.relpath(word) if word in self.sweep.base else word for word in self.arguments(settings, seed)]
        return ["gradgrad", "fit", *(word for word in words if not word.startswith(added))]

    def prove(self) -> dict[str, Any]:
        """Parse the base, then the overrides, then each end of each key.

        Returns:
            The base with the overrides, resolved.

        Raises:
            UsageError: what cannot be parsed, and where it was written.
        """
        sweep, file = self.sweep, self.sweep.file
        cli = self._parsed = _Parsed([word for base in sweep.base for word in ("-c", base)])
        base = cli.tree
        self.logger = _our_logger(base)
        if sweep.overrides:
            with _written_in(f"{file}, overrides"):
                cli.parse(self.shown({}, None)[2:])
            base = cli.tree
        for settings in sweep.space.to_be_proved():
            with _written_in(f"{file}, space"):
                cli.parse(self.arguments(settings, sweep.seeds[0]))
        return base

    def config(self, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Resolve a point.

        Args:
            settings: value by key.
            seed: of the trial.

        Returns:
            The whole config of ``gradgrad fit``, without secrets and without what only serves the sweep.
        """
        assert self._parsed is not None, "it was proved before"
        self._parsed.parse(self.shown(settings, seed)[2:])
        tree = self._parsed.tree
        kept = {key: value for key, value in tree.items() if key != "config"}
        redacted: dict[str, Any] = redact_tree(kept)
        return redacted


class _Parsed(TrainingCLI):
    """LightningCLI, which stops once it has parsed."""

    def __init__(self, arguments: Sequence[str]) -> None:
        super().__init__("fit", arguments)

    @property
    def tree(self) -> dict[str, Any]:
        """The config, as YAML reads it."""
        tree: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))["fit"]
        return tree

    def parse(self, arguments: Sequence[str]) -> None:
        """Parse another command line; making the parser again would take most of the time."""
        self.config = self._parse(self.parser, expand_includes(arguments))

    @override
    def _set_seed(self) -> None: ...

    @override
    def before_instantiate_classes(self) -> None: ...

    @override
    def instantiate_classes(self) -> None: ...

    @override
    def _run_subcommand(self, subcommand: str) -> None: ...


@contextmanager
def _written_in(place: str) -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        _, _, sentence = str(error).partition(": ")  # it begins with the file or command line that the parser was given
        raise UsageError(f"{place}: {sentence}") from error.__cause__


def _outer_first(keys: list[str]) -> list[str]:
    """Put what is inside another key behind it, which would undo it else; the rest stays as it is."""
    steps = {key: plainly(key).split(".") for key in keys}
    inside = [key for key in keys if any(steps[key][: len(outer)] == outer != steps[key] for outer in steps.values())]
    return [key for key in keys if key not in inside] + sorted(inside, key=lambda key: len(steps[key]))


def _word(value: Any) -> str:
    return value if isinstance(value, str) and yaml.safe_load(value) == value and not _is_number(value) else on_one_line(value)


def _is_number(text: str) -> bool:
    """YAML takes 1e-3 for a text, jsonargparse for a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _our_logger(tree: dict[str, Any]) -> str:
    """Find the key of the logger that the trials' runs are recorded by."""
    loggers = tree["trainer"]["logger"]
    for index, logger in enumerate(loggers if isinstance(loggers, list) else [loggers]):
        if isinstance(logger, dict) and str(logger.get("class_path", "")).startswith("gradgrad.tracking"):
            return f"trainer.logger.{index}" if isinstance(loggers, list) else "trainer.logger"
    raise UsageError("base: its trainer.logger is not ours.\nexpected: gradgrad.tracking.MLflowLogger, which records the trials")
