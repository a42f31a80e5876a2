"""The one error that means: what was written cannot be run, and here is what to write instead."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(ValueError):
    """What the user wrote cannot be run.

    The message says what was got, what was expected and what to write instead, in at most five lines. The command line prints
    it without a traceback and exits with 2; no run is recorded, because it is raised before one is opened.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Name the known word that is closest to a misspelt one.

    Args:
        name: what was written.
        known: the words that would have been right.

    Returns:
        The closest word, or an empty string where nothing is close (difflib's ratio below its default of 0.6).
    """
    matches = get_close_matches(name, list(known), n=1)
    return matches[0] if matches else ""


def some(names: Iterable[str], most: int = 6) -> str:
    """List names, but not all of a long list.

    Args:
        names: in the order of interest.
        most: how many to show.

    Returns:
        The first few, separated by commas, with ``...`` where there are more.
    """
    names = list(names)
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
