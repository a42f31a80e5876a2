"""Command lines of the verbs that train nothing."""

import argparse
from typing import NoReturn

from gradgrad.errors import UsageError


class Parser(argparse.ArgumentParser):
    """A parser without a usage dump.

    Args:
        prog: the verb, as it is typed.
        expected: the whole command line, for messages.
        description: what it does.
    """

    def __init__(self, prog: str, expected: str, description: str) -> None:
        super().__init__(prog, description=description, allow_abbrev=False)
        self._expected = expected

    def error(self, message: str) -> NoReturn:
        """Raise a sentence.

        Args:
            message: argparse's.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message}\nexpected: {self._expected}")
