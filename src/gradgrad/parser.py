"""LightningCLI's parser, with errors that say what to write instead."""

from argparse import ArgumentError, ArgumentParser
from pathlib import Path
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from gradgrad.diagnosis import diagnose
from gradgrad.errors import UsageError
from gradgrad.written import Written


class Parser(LightningArgumentParser):
    """LightningCLI's parser with errors that say what to write instead."""

    written = Written([], Path(), {})

    @override
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a sentence instead of printing a usage dump.

        Args:
            message: jsonargparse's.
            ex: what caused it.

        Raises:
            ArgumentError: inside a nested class, for the level above.
            UsageError: at the top.
        """
        parser = getattr(ex, "subcommand_parser", None) or self
        nested = ArgumentError(None, message)
        nested.known = _keys(parser)  # type: ignore[attr-defined]  # read by the diagnosis
        if not self.exit_on_error:
            raise nested from ex
        nested.__cause__ = ex
        raise UsageError(diagnose(nested, Parser.written)) from ex


def _keys(parser: ArgumentParser) -> list[str]:
    flags = ("help", "config", "print_")
    return [a.dest for a in parser._actions if not a.dest.startswith(flags) and not a.dest.endswith(".help")]
