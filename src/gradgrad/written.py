"""What the user wrote, and where: the command line, its config files, and those that they name."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import yaml

from gradgrad.arguments import config_files, join_values
from gradgrad.errors import UsageError

OPTIONAL = ("init_args", "class_path")  # keys that the command line lets one leave out
_NAMED_FILE = re.compile(r"^\s*(?:-\s+)?\w*:\s*['\"]?([^'\"\s#{}\[\]]+\.ya?ml)\b", re.MULTILINE)


class Place(NamedTuple):
    """Where a key was written.

    Attributes:
        where: ``file:line`` or ``command line``.
        value: what was written there; empty for a mapping.
    """

    where: str
    value: str


class Written(NamedTuple):
    """A command line with the texts of its files, read before the parser changes into their folders.

    Attributes:
        arguments: joined.
        folder: where the user stands.
        files: text by path, as the user would name it.
    """

    arguments: list[str]
    folder: Path
    files: dict[Path, str]

    @classmethod
    def read(cls, arguments: Sequence[str]) -> "Written":
        """Read the files of a command line, and those that they name.

        Args:
            arguments: what follows the verb.

        Returns:
            Files in the order in which they are named; missing ones are left out.

        Raises:
            UsageError: a mapping has a key twice, of which YAML would silently drop the first.
        """
        files: dict[Path, str] = {}
        waiting = config_files(arguments)
        while waiting:
            file = waiting.pop(0)
            if file.is_file() and file not in files:
                files[file] = file.read_text(errors="replace")
                _refuse_repetitions(file, files[file])
                waiting += [file.parent / name for name in _NAMED_FILE.findall(files[file])]
        return cls(join_values(arguments), Path.cwd(), files)

    def find(self, keys: Sequence[str], value: str | None = None) -> Place:
        """Find where a key was written; the command line wins over files, as it does in the parser.

        Args:
            keys: its dotted name, with or without ``init_args``.
            value: what must stand there, if that is known.

        Returns:
            The place; where none is found, the first file, without value.
        """
        wanted = [key for key in keys if key not in OPTIONAL]
        for argument in self.arguments:
            name, _, written = argument.lstrip("-").partition("=")
            parts = [part for part in name.rstrip("+").split(".") if part not in OPTIONAL and not part.isdigit()]
            if argument.startswith("--") and parts == wanted and (value is None or value == written):
                return Place("command line", written)
        for file, text in self.files.items():
            try:
                nodes = list(_nodes(yaml.compose(text)))
            except yaml.YAMLError:
                continue
            for path, node in nodes:
                scalar = node.value if isinstance(node, yaml.ScalarNode) else ""
                if keys and _leads_to(wanted, path) and (value is None or scalar == value):
                    return Place(f"{file}:{node.start_mark.line + 1}", scalar)
        return Place(str(next(iter(self.files), "command line")), "")


def _refuse_repetitions(file: Path, text: str) -> None:
    with suppress(yaml.YAMLError):  # the parser's to tell
        waiting = [yaml.compose(text)]
        while waiting:
            node = waiting.pop()
            lines: dict[str, int] = {}
            for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
                waiting.append(value)
                if not isinstance(key, yaml.ScalarNode):
                    continue
                line = key.start_mark.line + 1
                if key.value in lines:
                    twice = f"{key.value} is there twice, first in line {lines[key.value]}"
                    raise UsageError(f"{file}:{line}: {twice}.\nexpected: each key once")
                lines[key.value] = line
            waiting += node.value if isinstance(node, yaml.SequenceNode) else []


def _nodes(node: yaml.Node | None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value).rstrip("+"))
            yield here, value
            yield from _nodes(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _nodes(value, path)


def _leads_to(wanted: Sequence[str], path: Sequence[str]) -> bool:
    """Tell whether a path ends as the wanted one does; a nested file begins lower, so its paths are shorter."""
    steps = [part for part in path if part not in OPTIONAL]
    return bool(steps) and list(wanted[-len(steps) :]) == steps
