"""Names of settings as the user writes them: the keys of the command line, or tags."""

import re
from collections.abc import Sequence

import pandas as pd

from gradgrad.errors import UsageError, nearest, some


def short(name: str) -> str:
    """Write a key as on the command line.

    Args:
        name: of a parameter.

    Returns:
        The name without ``init_args``.
    """
    return re.sub(r"\.init_args(?=\.|$)", "", name)


def resolve(option: str, keys: Sequence[str], settings: pd.DataFrame) -> list[str]:
    """Find the columns that keys mean.

    Args:
        option: they were given to, for messages.
        keys: as :func:`find` takes them.
        settings: one row per run, one column per parameter or tag.

    Returns:
        Columns of ``settings``, each once.

    Raises:
        UsageError: no run has such a setting.
    """
    columns: list[str] = []
    for key in keys:
        meant = find(key, settings)
        if not meant:
            _refuse(option, key, settings)
        columns += [name for name in meant if name not in columns]
    return columns


def find(key: str, settings: pd.DataFrame) -> list[str]:
    """Find the columns that a key means.

    Args:
        key: dotted, with or without ``init_args``; one that has others below it means those of them that tell runs apart.
        settings: one row per run, one column per parameter or tag.

    Returns:
        Columns of ``settings``; none where no run has such a setting.
    """
    names = [str(name) for name in settings]
    meant = [name for name in names if name == key] or [name for name in names if short(name) == short(key)]
    below = sorted(name for name in names if short(name).startswith(f"{short(key)}."))  # a class before its arguments
    if not below:
        return meant
    return _telling_apart(meant, below, settings) or (meant or below)[:1]


def _telling_apart(meant: list[str], below: list[str], settings: pd.DataFrame) -> list[str]:
    """Leave out what is the same everywhere, and what the other columns tell already: the arguments of only one class, say."""
    kept = [name for name in (*meant, *below) if settings[name].nunique(dropna=False) > 1]
    groups = len(settings[kept].drop_duplicates())
    for name in (*meant, *reversed(below)):
        rest = [other for other in kept if other != name]
        if rest and len(settings[rest].drop_duplicates()) == groups:
            kept = rest
    return kept


def _refuse(option: str, key: str, settings: pd.DataFrame) -> None:
    names = [short(str(name)) for name in settings]
    near = next((name for name in names if name.endswith(f".{key}")), "") or nearest(short(key), names)
    others = differing(settings)
    raise UsageError(
        f"{option} {key}: no run has such a setting or tag.\n"
        "expected: a key as on the command line, or a tag"
        + (f"; these differ: {some(others)}" if others else "")
        + (f"\nwrite:    {option} {near}" if near else "")
    )


def differing(settings: pd.DataFrame) -> list[str]:
    """List the settings that one could group by.

    Args:
        settings: one row per run, one column per parameter or tag.

    Returns:
        Those that differ between runs, but not in each run, as on the command line.
    """
    return [short(str(name)) for name in settings if _differs(settings, str(name))]


def _differs(settings: pd.DataFrame, name: str) -> bool:
    return not name.startswith("mlflow.") and 1 < settings[name].nunique(dropna=False) < max(3, len(settings))


def labels(names: Sequence[str]) -> list[str]:
    """Shorten keys as far as they stay distinct.

    Args:
        names: of parameters.

    Returns:
        The last words of each: ``weight`` of ``model.init_args.penalties.0.init_args.weight``.
    """
    parts = [short(name).split(".") for name in names]
    return [next(filter(None, (_tail(own, size, parts) for size in range(1, len(own) + 1))), ".".join(own)) for own in parts]


def _tail(own: list[str], size: int, parts: list[list[str]]) -> str:
    """The last words, if they begin with a word and are nobody else's."""
    tail = own[-size:]
    alone = sum(other[-size:] == tail for other in parts) == 1
    return ".".join(tail) if alone and not tail[0].isdecimal() else ""
