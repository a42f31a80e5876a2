"""What one config says otherwise than another."""

from collections.abc import Mapping
from typing import Any

from gradgrad.tracking.flatten import flatten
from gradgrad.tracking.secrets import redact_tree


def config_diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Compare two configs key by key.

    Args:
        before: nested, as YAML reads it.
        after: the same.

    Returns:
        For each dotted key that differs ``-key: value before`` and ``+key: value after``, one of them where the other has no such
        key, in the order of ``after``; redacted; empty where nothing differs.
    """
    old, new = (dict(flatten(redact_tree(tree))) if tree else {} for tree in (before, after))
    lines: list[str] = []
    for key in dict.fromkeys([*new, *old]):
        if old.get(key) != new.get(key):
            lines += [f"{sign}{key}: {side[key]}" for sign, side in (("-", old), ("+", new)) if key in side]
    return "".join(f"{line}\n" for line in lines)
