"""A config as parameters, under the names that the command line takes."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 6000  # MLflow's limit for a value (mlflow.utils.validation.MAX_PARAM_VAL_LENGTH)


NAME = re.compile(r"[\w.\-/ :]{1,250}")  # what MLflow takes for the name of a parameter


def flatten(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """List the leaves of a config.

    Args:
        tree: nested mappings, lists and plain values, as YAML reads them.
        key: dotted name of ``tree``.

    Yields:
        Dotted name and value, as they could be typed: ``model.init_args.penalties.0.init_args.weight`` and ``1.0``. Lists of
        mappings go down by index, lists of plain values are one value, as is a mapping with keys that
        MLflow refuses for names; empty ones are ``{}`` and ``[]``; a value beyond
        MLflow's limit is cut, with ``...`` to say so (the whole stands in ``config.yaml``).
    """
    if isinstance(tree, Mapping) and tree and all(NAME.fullmatch(f"{key}.{name}") for name in tree):
        for name, value in tree.items():
            yield from flatten(value, f"{key}.{name}" if key else str(name))
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        for index, item in enumerate(tree):
            yield from flatten(item, f"{key}.{index}")
    else:
        value = tree if isinstance(tree, str) else json.dumps(tree, default=str)
        yield key, value if len(value) <= LONGEST else value[: LONGEST - 3] + "..."
