"""Turn a parser's exception into a sentence: which file, which key, what was got, expected, and what to write.

jsonargparse reports a mistake inside a nested class as a dump of all types of a union, without the key's full name. But
its exception keeps the whole chain of causes, one per level, and :class:`gradgrad.parser.Parser` adds to each level the keys
that would have been right; reading that chain from the bottom gives everything that a sentence needs.
"""

import difflib
import importlib
import pkgutil
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gradgrad.errors import nearest, some
from gradgrad.written import Written


class Mistake(NamedTuple):
    """One level of the chain of causes.

    Attributes:
        cause: the exception of this level.
        above: the message of the level above.
        keys: dotted key that the whole chain leads to.
        known: keys that would have been right.
        written: what the user wrote.
    """

    cause: BaseException
    above: str
    keys: list[str]
    known: Sequence[str]
    written: Written


def diagnose(error: BaseException, written: Written) -> str:
    """Explain why a command line could not be parsed.

    Args:
        error: what the parser raised, with the keys that would have been right as ``known``.
        written: what the user wrote.

    Returns:
        At most five lines.
    """
    chain = list(causes(error))
    named = [found[1] for e in chain if (found := re.match(r'Parser key "([^"]+)"', str(e)))]
    keys = [part for n, key in enumerate(named) if n == 0 or key != named[n - 1] for part in key.split(".")]
    keys = keys[1:] if keys[:1] == ["config"] else keys  # a mistake inside a config that was given as text
    for level in reversed(range(len(chain))):
        right: Sequence[str] = next((e.known for e in reversed(chain[: level + 1]) if hasattr(e, "known")), [])
        mistake = Mistake(chain[level], str(chain[level - 1]) if level else "", keys, right, written)
        for rule in RULES:
            if sentence := rule(mistake):
                return sentence
    return "\n".join(str(error).splitlines()[:5])


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Walk down to what began it.

    Args:
        error: an exception.

    Yields:
        It, its cause (or else context), and so on.
    """
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _sentence(where: str, what: str, got: str, expected: str, write: str = "") -> str:
    lines = [f"{where}: {what}", f"got:      {got}", f"expected: {expected}", f"write:    {write}"]
    return "\n".join(line for line in lines if not line.endswith(":    ") and not line.endswith(": "))


def _missing_file(mistake: Mistake) -> str:
    found = re.search(r"File does not exist: '?([^'\n]+)", str(mistake.cause))
    if not found or "{" in found[1]:  # a config given as text is tried as a file name first
        return ""
    path, folder = Path(found[1]), mistake.written.folder
    near = nearest(path.name, [p.name for p in path.parent.glob("*.y*ml")])
    by = next((str(file) for file, text in mistake.written.files.items() if path.name in text), "command line")
    short = path.relative_to(folder) if path.is_relative_to(folder) else path
    return _sentence(by, "no such file", str(short), f"a YAML file in {path.parent}", str(short.with_name(near)) if near else "")


def _broken_yaml(mistake: Mistake) -> str:
    if not isinstance(mistake.cause, yaml.MarkedYAMLError):
        return ""
    for file, text in mistake.written.files.items():
        try:
            yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line if error.problem_mark else 0
            got = [*text.splitlines(), ""][line].strip() or "the end of the file"
            return _sentence(f"{file}:{line + 1}", f"not YAML, {error.problem}", got, "lines of `key: value`, indented by spaces")
    return ""


def _no_config(mistake: Mistake) -> str:
    found = re.search(r"Unexpected config: (.*)", str(mistake.cause))
    if not found:
        return ""
    file = next((str(f) for f, text in mistake.written.files.items() if text.strip() == found[1].strip()), "command line")
    return _sentence(
        file,
        "not a config",
        found[1].strip() or "nothing",
        "lines of `key: value`",
        "config: base.yaml, then what differs",
    )


def _unknown_key(mistake: Mistake) -> str:
    found = re.search(r"[Oo]ption '([^']+)' is not accepted|does not accept option '([^']+)'", str(mistake.cause)) or re.search(
        r"[Uu]nrecognized arguments: (?:--)?([^\s=]+)", str(mistake.cause)
    )
    if not found:
        return ""
    name = next(group for group in found.groups() if group)
    steps = name.split(".")
    known = [key.split(".") for key in mistake.known]
    wrong = next((n for n in range(1, len(steps)) if steps[:n] not in [key[:n] for key in known]), len(steps))
    steps = steps[:wrong] if known else steps  # "trianer" of trianer.max_epochs
    full = [*mistake.keys, *steps]
    place = mistake.written.find(full)
    choices = sorted({".".join(key.split(".")[: len(steps)]) for key in mistake.known})
    beside = [c for c in choices if c.split(".")[:-1] == steps[:-1]]
    close = difflib.get_close_matches(".".join(steps), beside or choices, n=6)
    names = [c.rpartition(".")[2] for c in dict.fromkeys([*close, *beside])]
    expected = ("one of " if len(names) > 1 else "") + some(names)
    got = f"{full[-1]}: {place.value}" if place.value else full[-1]
    where = "command line" if "nrecognized" in str(mistake.cause) else place.where
    if name.endswith((".yaml", ".yml")):
        return _sentence(where, "a file without -c", name, "options only", f"-c {name}")
    return _sentence(where, f"unknown key {'.'.join(full)}", got, expected, names[0] if close else "")


def _unknown_class(mistake: Mistake) -> str:
    text, keys = str(mistake.cause), mistake.keys
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        home, name = found[1], found[2]
        near = nearest(name, [n for n in dir(importlib.import_module(home)) if n[0].isupper()])
        got, expected = f"{home}.{name}", f"a class that module {home} has"
        write = f"{home}.{near}" if near else ""
    elif found := re.search(r"No module named '([\w.]+)'", text):
        home, _, name = found[1].rpartition(".")
        near = nearest(name, _modules(home))
        got, expected = found[1], "a module that can be imported"
        write = f"{home}.{near}".lstrip(".") if near else ""
    elif found := re.search(r"Expected a dot import path string: (\S+)", text):
        got, expected = found[1], "a class by its name, if Lightning or torch.optim has it, else with its module"
        write = nearest(got, _known_classes())
    else:
        return ""
    place = mistake.written.find([*keys, "class_path"])
    return _sentence(place.where, f"unknown class for {'.'.join(keys)}", got, expected, write)


def _missing_key(mistake: Mistake) -> str:
    text = str(mistake.cause)
    found = re.search(r"arguments are required: (.+)", text) or re.search(r"[Kk]ey \"?([\w.]+)\"? is required", text)
    if not found:
        return ""
    name = ".".join([*mistake.keys, re.sub(r"^(fit|validate|test|predict)\.", "", found[1])])
    place = mistake.written.find(mistake.keys)
    return _sentence(
        place.where,
        f"missing key {name}",
        "nothing",
        "a config that names it",
        f"-c configs/<experiment>.yaml, or --{name}",
    )


def _wrong_value(mistake: Mistake) -> str:
    found = re.search(r"Expected an? (.+?)\. Got value: (.*)", str(mistake.cause), re.DOTALL)
    if not found or not mistake.keys:
        return ""
    got, expected = found[2].splitlines()[0], found[1]
    union = re.search(r"^Does not validate against any of the Union subtypes\nSubtypes: \[(.*)\]\n", mistake.above)
    literal = re.search(r"typing\.Literal\[(.*)\]", expected)
    choices = re.findall(r"'(\w+)'", literal[1]) if literal else []
    kind = re.sub(r"<class '([^']+)'>", r"\1", union[1].replace(", ", " or ") if union else expected)
    kind = kind.replace("NoneType", "null").replace("collections.abc.Sequence", "list")
    place = mistake.written.find(mistake.keys)
    expected = f"one of {some(choices)}" if choices else kind
    return _sentence(place.where, f"wrong value for {'.'.join(mistake.keys)}", got, expected, nearest(got, choices))


def _out_of_bounds(mistake: Mistake) -> str:
    found = re.search(
        r"Not of type \w+: (?:(?:\S+ )?does not conform to restriction v?(\S+)|invalid literal|could not)", str(mistake.cause)
    )
    if not found or not mistake.keys:
        return ""
    place = mistake.written.find(mistake.keys)
    expected = f"a number {found[1] or ''}".strip()
    return _sentence(place.where, f"wrong value for {'.'.join(mistake.keys)}", place.value, expected)


def _modules(package: str) -> list[str]:
    try:
        paths = importlib.import_module(package).__path__ if package else None
    except (ImportError, AttributeError):
        return []
    return [module.name for module in pkgutil.iter_modules(paths)]


def _known_classes() -> list[str]:
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    def below(base: type) -> Iterator[str]:
        yield base.__name__
        children: list[type[Any]] = base.__subclasses__()
        yield from (name for child in children for name in below(child))

    return [name for base in (Callback, LightningDataModule, LightningModule, Optimizer, LRScheduler) for name in below(base)]


RULES = (*(_missing_file, _broken_yaml, _no_config, _unknown_key, _unknown_class, _missing_key, _wrong_value, _out_of_bounds),)
