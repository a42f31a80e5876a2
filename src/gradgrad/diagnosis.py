"""Turn a parser's exception into a sentence: which file, which key, what was got, expected, and what to write.

jsonargparse reports a mistake inside a nested class as a dump of all types of a union, without the key's full name. But
its exception keeps the whole chain of causes, one per level, and :class:`gradgrad.training.Parser` adds to each level the keys
that would have been right; reading that chain from the bottom gives everything that a sentence needs.
"""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from gradgrad.arguments import config_files, join_values
from gradgrad.errors import nearest

_NAMED_FILE = re.compile(r"^\s*(?:-\s+)?\w*:\s*['\"]?([^'\"\s#{}\[\]]+\.ya?ml)\b", re.MULTILINE)
NOISE = ("init_args", "class_path")  # keys that the command line lets one leave out


class Place(NamedTuple):
    """Where a key was written.

    Attributes:
        where: ``file:line`` or ``command line``.
        value: what was written there.
    """

    where: str
    value: str


def diagnose(error: BaseException, known: Sequence[str], arguments: Sequence[str]) -> str:
    """Explain why a command line could not be parsed.

    Args:
        error: what the parser raised.
        known: the keys of the verb, dotted.
        arguments: the command line.

    Returns:
        At most five lines.
    """
    chain = list(_chain(error))
    keys = [found[1] for e in chain if (found := re.match(r'Parser key "([^"]+)"', str(e)))]
    keys = [part for n, key in enumerate(keys) if n == 0 or key != keys[n - 1] for part in key.split(".")]
    files = list(_files(arguments))
    for level, cause in reversed(list(enumerate(chain))):
        right = next((e.known for e in reversed(chain[: level + 1]) if hasattr(e, "known")), list(known))
        for rule in (_missing_file, _broken_yaml, _unknown_key, _unknown_class, _missing_key, _wrong_type):
            if sentence := rule(cause, chain, keys, right, files, arguments):
                return "\n".join(sentence.splitlines()[:5])
    return "\n".join(str(error).splitlines()[:5])


def _missing_file(cause, chain, keys, right, files, arguments) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    found = re.search(r"File does not exist: '?([^']+?)'?$", str(cause).splitlines()[0]) if str(cause) else None
    if not found:
        return ""
    path = Path(found[1])
    near = nearest(path.name, [p.name for p in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else ""
    by = next((f"{file}: " for file in files if file != path and path.name in _text(file)), "")
    return f"{by}file {_short(path)} does not exist\nexpected: a YAML file" + (
        f"\nwrite:    {_short(path.parent / near)}" if near else f" (looked in {path.parent})"
    )


def _broken_yaml(cause, chain, keys, right, files, arguments) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    if not isinstance(cause, yaml.MarkedYAMLError):
        return ""
    for file in files:
        try:
            yaml.safe_load(_text(file))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else "?"
            return f"{file}:{line}: not YAML: {error.problem}\nexpected: lines of `key: value`, indented by spaces"
    return f"command line: not YAML: {cause.problem}"


def _unknown_key(cause, chain, keys, right, files, arguments) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    found = re.search(r"(?:[Oo]ption|Key) ['\"]([^'\"]+)['\"] is not accepted|does not accept option '([^']+)'", str(cause)) or (
        re.search(r"[Uu]nrecognized arguments: --([^\s=]+)", str(cause))
    )
    if not found:
        return ""
    name = next(group for group in found.groups() if group)
    full = [*keys, *name.split(".")]
    place = _place(full, files, arguments)
    depth = len(name.split("."))
    choices = {".".join(key.split(".")[:depth]) for key in right}
    close = difflib.get_close_matches(name, choices, n=3)
    siblings = close or sorted(c for c in choices if c.rpartition(".")[0] == name.rpartition(".")[0])[:6]
    return (
        f"{place.where}: unknown key {'.'.join(full)}\n"
        f"got:      {full[-1]}{': ' + place.value if place.value else ''}\n"
        f"expected: {'one of ' if len(siblings) > 1 else ''}{', '.join(s.rpartition('.')[2] for s in siblings) or 'no key here'}"
    ) + (f"\nwrite:    {close[0].rpartition('.')[2]}" if close else "")


def _unknown_class(cause, chain, keys, right, files, arguments) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    text = str(cause)
    attribute = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text)
    module = re.search(r"No module named '([\w.]+)'", text)
    bare = re.search(r"Expected a dot import path string: (\S+)", text)
    if attribute:
        home, name = attribute[1], attribute[2]
        near = nearest(name, [n for n in dir(importlib.import_module(home)) if n[0].isupper()])
        got, write = f"{home}.{name}", f"{home}.{near}" if near else ""
        expected = f"a class that module {home} has"
    elif module:
        got, expected = module[1], "a module that can be imported"
        home, _, name = got.rpartition(".")
        near = nearest(name, _modules(home))
        write = f"{home}.{near}".lstrip(".") if near else ""
    elif bare:
        from lightning.pytorch import Callback, LightningDataModule, LightningModule

        classes = {c.__name__: f"{c.__module__}.{c.__name__}" for c in _below(Callback, LightningModule, LightningDataModule)}
        near = nearest(bare[1], classes)
        got, expected, write = bare[1], "a class, by name where Lightning knows it, else with its module", near
    else:
        return ""
    place = _place([*keys, "class_path"], files, arguments, got)
    where = place.where if place.value else _place(keys, files, arguments).where
    return f"{where}: unknown class for {'.'.join(keys)}\ngot:      {got}\nexpected: {expected}" + (
        f"\nwrite:    {write}" if write else ""
    )


def _missing_key(cause, chain, keys, right, files, arguments) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    found = re.search(r"(?:Key|[Oo]ption|argument)s? ['\"]?([\w.]+)['\"]? (?:is|are) required", str(cause))
    if not found:
        return ""
    name = ".".join([*keys, found[1]])
    return f"{_place(keys, files, arguments).where}: missing key {name}\nwrite: -c configs/<experiment>.yaml, or --{name} <value>"


def _wrong_type(cause, chain, keys, right, files, arguments) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    found = re.search(r"Expected an? (.+?)\. Got value: (.*)", str(cause), re.DOTALL)
    if not found or not keys:
        return ""
    expected, got = found[1], found[2].splitlines()[0]
    parent = next((str(e) for e in chain if e.__cause__ is cause or e.__context__ is cause), "")
    if parent.startswith("Does not validate against any of the Union subtypes"):
        expected = parent.split("Subtypes: [", 1)[1].split("]\n", 1)[0]
    place = _place(keys, files, arguments)
    kind = re.sub(r"<class '([^']+)'>", r"\1", expected).replace("NoneType", "null").replace(", ", " or ")
    return f"{place.where}: wrong value for {'.'.join(keys)}\ngot:      {got}\nexpected: {kind}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _files(arguments: Sequence[str]) -> Iterator[Path]:
    """Name the config files of a command line, and those that they include."""
    waiting = config_files(arguments)
    while waiting:
        file = waiting.pop(0)
        if file.is_file():
            yield file
            waiting += [file.parent / name for name in re.findall(_NAMED_FILE, _text(file))]


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _place(keys: Sequence[str], files: Sequence[Path], arguments: Sequence[str], value: str | None = None) -> Place:
    """Find where a key was written: the command line wins over files, as it does in the parser."""
    wanted = [key for key in keys if key not in NOISE or key == keys[-1]]
    for argument in join_values(arguments):
        name, _, written = argument.lstrip("-").partition("=")
        parts = [part for part in name.rstrip("+").split(".") if part not in NOISE and not part.isdigit()]
        if argument.startswith("--") and parts and parts == [k for k in wanted if k not in NOISE]:
            return Place("command line", written)
    for file in files:
        try:
            root = yaml.compose(_text(file))
        except yaml.YAMLError:
            continue
        for path, node in _nodes(root):
            if path and _is_subsequence(wanted, path) and (value is None or getattr(node, "value", None) == value):
                written = node.value if isinstance(node, yaml.ScalarNode) else ""
                return Place(f"{file}:{node.start_mark.line + 1}", written)
    return Place(str(files[0]) if files else "command line", "")


def _nodes(node: yaml.Node | None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value).rstrip("+"))
            yield here, value
            yield from _nodes(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _nodes(value, path)


def _is_subsequence(wanted: Sequence[str], path: Sequence[str]) -> bool:
    """Tell whether a path leads to the wanted key by the wanted steps; a nested file begins lower, so it may miss the first."""
    rest = [part for part in path[:-1] if part not in NOISE]
    return path[-1] == wanted[-1] and list(wanted[:-1])[-len(rest) or len(wanted) :] == rest


def _modules(package: str) -> list[str]:
    try:
        paths = importlib.import_module(package).__path__ if package else None
    except (ImportError, AttributeError):
        return []
    return [module.name for module in pkgutil.iter_modules(paths)]


def _below(*bases: type) -> Iterator[type]:
    for base in bases:
        yield base
        yield from _below(*base.__subclasses__())
