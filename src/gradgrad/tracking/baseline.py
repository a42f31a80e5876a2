"""The group that others are compared with, as the user names it."""

import shlex
from collections.abc import Sequence

from gradgrad.errors import UsageError, nearest, some
from gradgrad.tracking.comparison import Group
from gradgrad.tracking.run_keys import short


def shown(group: Group, names: Sequence[str]) -> str:
    """Name a group.

    Args:
        group: its values.
        names: what they are values of.

    Returns:
        For example ``weight=0.3 lr=0.01``, on one line.
    """
    return " ".join(f"{name}={' '.join(value.split())}" for name, value in zip(names, group, strict=True))


def find_baselines(
    wanted: Sequence[str], keys: Sequence[str], names: Sequence[str], groups: Sequence[Group]
) -> dict[Group, Group]:
    """Find the baseline of each group.

    Args:
        wanted: ``key=value``, or values alone.
        keys: of the groups' values, as in MLflow.
        names: the short ones.
        groups: all of them.

    Returns:
        The same baseline for all groups where only one has the wanted values. Where several have, each group is compared with the
        one that shares its other values, and those that find none are left out.

    Raises:
        UsageError: no group has these values, or a value alone could belong to several keys.
    """
    places = {}
    for position, text in enumerate(wanted):
        place, value = _place(text, position if len(wanted) == len(keys) else None, keys, names, groups)
        places[place] = value
    fitting = [group for group in groups if all(group[place] == value for place, value in places.items())]
    fitting = fitting or [group for group in groups if all(_same(group[place], value) for place, value in places.items())]
    if not fitting:
        _refuse(wanted, names, groups)
    if len(fitting) == 1:
        return dict.fromkeys(groups, fitting[0])
    others = [place for place in range(len(keys)) if place not in places]
    by_others = {tuple(group[place] for place in others): group for group in fitting}
    found = {group: by_others.get(tuple(group[place] for place in others)) for group in groups}
    return {group: baseline for group, baseline in found.items() if baseline is not None}


def _place(
    text: str, position: int | None, keys: Sequence[str], names: Sequence[str], groups: Sequence[Group]
) -> tuple[int, str]:
    """Which key a value belongs to: the one it names, the one at its position, or the only one that has such a value."""
    name, equals, value = text.partition("=")
    forms = [(key, short(key), label) for key, label in zip(keys, names, strict=True)]
    named = [place for place, form in enumerate(forms) if equals and (short(name) in form or name in form)]
    if named:
        return named[0], value
    if position is not None:
        return position, text
    having = [place for place in range(len(keys)) if any(_same(group[place], text) for group in groups)]
    if len(having) > 1:
        write = f"--against {names[having[0]]}={text}"
        raise UsageError(f"--against {text}: a value of {' and of '.join(names[n] for n in having)}.\nwrite: {write}")
    if not having:
        _refuse([text], names, groups)
    return having[0], text


def _refuse(wanted: Sequence[str], names: Sequence[str], groups: Sequence[Group]) -> None:
    known = [shown(group, names) for group in groups]
    near = nearest(" ".join(wanted), known)
    first = shlex.join(f"{name}={value}" for name, value in zip(names, groups[known.index(near or known[0])], strict=True))
    raise UsageError(
        f"--against {' '.join(wanted)}: no group has these values.\nexpected: one of {some(known)}\nwrite:    --against {first}"
    )


def _same(value: str, text: str) -> bool:
    """Whether texts are equal, or numbers: the user writes 0 for 0.0."""
    try:
        return value == text or float(value) == float(text)
    except ValueError:
        return False
