"""Settings of a measurement, checked where they are made, so that a script gets the sentences that the command line gives."""

import re
from typing import Any

from gradgrad.errors import UsageError, nearest

WHO = "HessianSpectrum"


def one_of(setting: str, value: Any, known: tuple[Any, ...]) -> None:
    """Insist on a known word.

    Args:
        setting: its name.
        value: what was given.
        known: what is allowed.

    Raises:
        UsageError: another word.
    """
    if value not in known:
        near = nearest(str(value), known)
        write = f"\nwrite:    {setting}: {near}" if near else ""
        raise UsageError(f"{WHO} got {setting} {value!r}; expected one of {', '.join(known)}.{write}")


def whole_number(setting: str, value: Any, least: int | None, optional: bool = False) -> None:
    """Insist on a whole number.

    Args:
        setting: its name.
        value: what was given.
        least: the smallest that is allowed; None is any.
        optional: whether None is allowed.

    Raises:
        UsageError: something else.
    """
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        expected = "a whole number" if least is None else f"{least} or more"
        raise UsageError(f"{WHO} got {setting} {value!r}; expected {expected}.")


def metric_prefix(name: str | None) -> None:
    """Insist on a name that metrics can begin with.

    Args:
        name: what was given; None is the default.

    Raises:
        UsageError: MLflow would refuse it.
    """
    if name is not None and not re.fullmatch(r"[\w\-./ ]*\w", name, re.ASCII):
        raise UsageError(f"{WHO} got name {name!r}; expected letters, digits and _ - . / space: MLflow's.")
