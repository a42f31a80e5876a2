"""Rewrite a command line into one that jsonargparse understands: includes, list items by index, a config in between."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from gradgrad.errors import UsageError, nearest, some

_CONFIG = re.compile(r"(-c|--config)(=|$)")
_INDEXED = re.compile(r"--[\w.]+\.\d+(\.[\w.]+)?=")


def is_config(argument: str) -> bool:
    """Tell whether an argument names a config file.

    Args:
        argument: one word of a command line.

    Returns:
        True for ``-c``, ``--config`` and ``--config=...``.
    """
    return bool(_CONFIG.match(argument))


def join_values(arguments: Sequence[str]) -> list[str]:
    """Write ``--key value`` as ``--key=value`` and ``-c file`` as ``--config=file``, so that an argument is one word.

    Args:
        arguments: a command line.

    Returns:
        The same, shorter.
    """
    joined: list[str] = []
    for argument in arguments:
        previous = joined[-1] if joined else ""
        takes_value = previous.startswith("--") and "=" not in previous
        if takes_value and (not argument.startswith("-") or re.fullmatch(r"-[\d.].*", argument)):
            joined[-1] = f"{previous}={argument}"
        else:
            joined.append(re.sub(r"^-c(=|$)", r"--config\1", argument))
    return joined


def config_files(arguments: Sequence[str]) -> list[Path]:
    """List the config files of a command line.

    Args:
        arguments: joined or not.

    Returns:
        The files, as written; they need not exist.
    """
    values = [a.partition("=")[2] for a in join_values(arguments) if is_config(a)]
    return [Path(value) for value in values if value and not value.startswith("{")]


def with_includes(file: Path, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """List a config file after those that it includes by its key ``config``.

    jsonargparse merges several ``--config`` key by key, but lets an included file lose whole branches (``trainer``) to the
    including one; so an include becomes a ``--config`` of its own, and the file that includes it is written out without that key.

    Args:
        file: a YAML file; one that is missing or broken is left for the parser to complain of.
        above: the files that led here.

    Yields:
        Values of ``--config``, included files first: a file's name, or the content of one that includes others.

    Raises:
        UsageError: a file includes itself, or something that is no file; or it is no text.
    """
    if file.resolve() in above:
        raise UsageError(f"{file} includes itself.\nexpected: `config: <another file>`, or no such line")
    try:
        tree = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError):
        tree = None
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not a text file in UTF-8: {error.reason}.\nexpected: lines of `key: value`") from error
    tree = tree if isinstance(tree, dict) else {}
    included = tree.get("config")
    names = [included] if isinstance(included, str) else included or []
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UsageError(f"{file}: config is {included}.\nexpected: the name of a YAML file, or a list of names")
    for name in names:
        yield from with_includes(file.parent / name, (*above, file.resolve()))
    yield on_one_line({key: value for key, value in tree.items() if key != "config"}) if names else str(file)


def on_one_line(tree: Any) -> str:
    """Write a value as it can stand on a command line.

    Args:
        tree: as YAML reads it.

    Returns:
        YAML, not JSON, which has no word for infinity.
    """
    return yaml.safe_dump(tree, default_flow_style=True, sort_keys=False, width=float("inf")).removesuffix("...\n").strip()


def expand_includes(arguments: Sequence[str]) -> list[str]:
    """Write each included file as a ``--config`` before the one that includes it.

    Args:
        arguments: a command line.

    Returns:
        The same, joined, with includes spelt out.
    """
    expanded: list[str] = []
    for argument in join_values(arguments):
        value = argument.partition("=")[2]
        if is_config(argument) and value and not value.startswith("{"):
            expanded += [f"--config={config}" for config in with_includes(Path(value))]
        else:
            expanded.append(argument)
    return expanded


def insert_config(arguments: Sequence[str], tree: dict[str, Any]) -> list[str]:
    """Put a config after the config files and before whatever the command line overrides: later wins.

    Args:
        arguments: joined, without the verb.
        tree: the config.

    Returns:
        The longer command line.
    """
    after = 1 + max((n for n, argument in enumerate(arguments) if is_config(argument)), default=-1)
    return [*arguments[:after], f"--config={on_one_line(tree)}", *arguments[after:]]


def split_indexed(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Part a command line into what jsonargparse takes and overrides of list items, ``--key.0.name=value``.

    Args:
        arguments: joined.

    Returns:
        The plain arguments, and the values of the others by dotted key.
    """
    indexed = [argument for argument in arguments if _INDEXED.match(argument)]
    plain = [argument for argument in arguments if argument not in indexed]
    pairs = (argument[2:].partition("=") for argument in indexed)
    return plain, {name: yaml.safe_load(value) for name, _, value in pairs}


def set_item(tree: Any, name: str, value: Any) -> None:
    """Change one place of a config.

    Args:
        tree: nested mappings and lists.
        name: dotted; numbers are list indices.
        value: what to put there.

    Raises:
        UsageError: there is no such place.
    """
    *steps, last = name.split(".")
    at = tree
    try:
        for step in steps:
            at = at[int(step)] if isinstance(at, list) else _below(at, step)[step]
        at = at if isinstance(at, list) else _below(at, last)
        if isinstance(at, dict) and last not in at:
            near = nearest(last, at)
            raise UsageError(
                f"command line: unknown key {name}\ngot:      {last}: {value}\nexpected: one of {some(at)}"
                + (f"\nwrite:    {near}" if near else "")
            )
        if isinstance(at, list):
            at[int(last)] = value
        else:
            at[last] = value
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        size = f" (the list has {len(at)} items)" if isinstance(at, list) else ""
        raise UsageError(f"command line: there is no {name}{size}.\nwrite: a key that --print_config shows") from error


def _below(tree: dict[str, Any], key: str) -> dict[str, Any]:
    """Step into ``init_args`` where the user left it out, as jsonargparse lets one."""
    inner = tree.get("init_args")
    return inner if isinstance(inner, dict) and key not in tree else tree
