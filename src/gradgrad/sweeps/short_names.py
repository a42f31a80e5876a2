"""Settings of a sweep in few characters: for columns, axes and lines of the terminal."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

COLUMNS = ("point", "seed", "trial", "status", "mean", "standard_error", "n", "value", "step", "seconds", "run_id", "reason")
_CLASS = re.compile(r"[a-z_]\w*(\.\w+)*\.(?P<name>[A-Z]\w*)")


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Name each key by the shortest end that no other has.

    Args:
        keys: dotted, as on the command line.

    Returns:
        By key: ``lr``, or ``optimizer.lr`` where two end in ``lr``. ``init_args`` is left out where that confuses no two, and no
        name begins with a place in a list or is one of :data:`COLUMNS`.
    """
    parts = {key: [part for part in key.split(".") if part != "init_args"] for key in keys}
    if len({tuple(path) for path in parts.values()}) < len(parts):
        parts = {key: key.split(".") for key in parts}
    return {key: _shortest(path, [other for name, other in parts.items() if name != key]) for key, path in parts.items()}


def _shortest(path: list[str], others: list[list[str]]) -> str:
    for length in range(1, len(path)):
        end = path[-length:]
        if not end[0].isdigit() and end[0] not in COLUMNS and all(other[-length:] != end for other in others):
            return ".".join(end)
    return ".".join(path)


def short_value(value: Any, width: int = 24) -> str:
    """Write a value as a config file does, in few characters.

    Args:
        value: what JSON knows.
        width: at most so many characters; the middle of a longer one is cut.

    Returns:
        ``0.003``, ``null``, ``SGD`` for ``torch.optim.SGD``, ``SAM(rho=0.05)`` for a class with arguments.
    """
    text = _written(value)
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        found = _CLASS.fullmatch(value)
        return found["name"] if found else value
    if isinstance(value, Mapping):
        named = "class_path" in value
        inner = value.get("init_args") or {} if named else value
        arguments = ", ".join(f"{key}={_written(part)}" for key, part in inner.items())
        name = _written(value["class_path"]) if named else ""
        return f"{name}({arguments})" if arguments or not named else name
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_written(part) for part in value)}]"
    return json.dumps(value, default=str)


def short_settings(settings: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Write a point in one line.

    Args:
        settings: by dotted key.
        names: from :func:`short_names`.

    Returns:
        ``weight=0.1 lr=0.003``.
    """
    return " ".join(f"{names.get(key, key)}={short_value(value)}" for key, value in settings.items())
