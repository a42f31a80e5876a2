"""Parameters by name."""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from gradgrad.errors import UsageError, nearest, some


def select(names: Iterable[str], pattern: str | None, who: str, setting: str = "parameters") -> list[str]:
    """Choose parameters by name.

    Args:
        names: of all parameters that there are.
        pattern: a glob such as ``*.weight``, or a regular expression if it begins with ``^``; None chooses all.
        who: who asks, for the message.
        setting: what the pattern is called there.

    Returns:
        The names that match, in their order.

    Raises:
        UsageError: no name matches, or no regular expression.
    """
    names = list(names)
    if pattern is None:
        return names
    if pattern.startswith("^"):
        try:
            chosen = [name for name in names if re.search(pattern, name)]
        except re.error as error:
            raise UsageError(f"{who} got {setting} {pattern!r}, which is no regular expression: {error}.") from error
    else:
        chosen = [name for name in names if fnmatchcase(name, pattern)]
    if not chosen:
        close = nearest(pattern, names)
        raise UsageError(
            f"{who} got {setting} {pattern!r}, which matches none of: {some(names)}\n"
            f"write:    {close or '*.weight'!s}, or another glob, or a regular expression that begins with ^"
        )
    return chosen
