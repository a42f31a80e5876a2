"""What a resumed run is told otherwise than before."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gradgrad.arguments import join_values
from gradgrad.tracking.secrets import HIDDEN

STATES = {"optimizer": "optimizer_states", "scheduler": "lr_schedulers", "lr_scheduler": "lr_schedulers"}  # in checkpoints
NOT_OF_THE_RUN = ("ckpt_path", "config", "resume", "weights_only")  # how a process begins, not what it trains


class Change(NamedTuple):
    """One key that is another now.

    Attributes:
        key: dotted, as it could be typed.
        old: None where there was no such key.
        new: None where there is none any more.
    """

    key: str
    old: Any
    new: Any


def changes(old: Any, new: Any, key: str = "") -> Iterator[Change]:
    """Compare two configs.

    Args:
        old: nested, as YAML reads it.
        new: the same.
        key: dotted name of both.

    Yields:
        What differs, in the order of ``old``. Values that were redacted are not compared.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**old, **new}:
            if key or name not in NOT_OF_THE_RUN:
                yield from changes(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif _items(old) and _items(new) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from changes(one, other, f"{key}.{index}")
    elif old != new and not _redacted(old):
        yield Change(key, old, new)


def recorded(config: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Prepare a run's config to be parsed again, before what the command line overrides.

    Args:
        config: as it was recorded.
        arguments: the command line, whose ``--key+=value`` go to what the config files say, lest they come twice.

    Returns:
        Without secrets, for which the files and the command line are asked, and without what is not of the run.
    """
    grown = [a.partition("+=")[0].lstrip("-") for a in join_values(arguments) if "+=" in a.partition(" ")[0]]
    grown += [a.partition("=")[0].lstrip("-").rstrip("+") for a in join_values(arguments) if a.partition("=")[0].endswith("+")]
    kept = {name: value for name, value in config.items() if name not in NOT_OF_THE_RUN and value is not None}
    return {name: pruned for name, value in kept.items() if (pruned := _pruned(value, name, grown)) is not None}


def _pruned(tree: Any, key: str, left_out: Sequence[str]) -> Any:
    if key in left_out or _redacted(tree):
        return None
    if not isinstance(tree, Mapping):
        return tree
    return {
        name: _pruned(value, f"{key}.{name}", left_out)
        for name, value in tree.items()
        if value is None or _pruned(value, f"{key}.{name}", left_out) is not None
    }


def _redacted(tree: Any) -> bool:
    if isinstance(tree, Mapping):
        return False
    return any(_redacted(item) for item in tree) if isinstance(tree, list) else isinstance(tree, str) and HIDDEN in tree


def _items(tree: Any) -> bool:
    return isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree)


def override_optimizers(checkpoint: dict[str, Any], drift: Sequence[Change]) -> None:
    """Let the settings of optimizers and schedulers that were changed win over the states in a checkpoint.

    A rate that a scheduler has scaled is scaled by the same factor again; an optimizer or scheduler of another class, or a
    scheduler that was not there, begins anew.

    Args:
        checkpoint: Lightning's; changed in place.
        drift: what has changed.
    """
    for change in drift:
        path = change.key.split(".")
        for place, states in STATES.items():
            if place not in path:
                continue
            rest = [part for part in path[path.index(place) + 1 :] if part != "init_args"]
            if rest in ([], ["class_path"]):
                checkpoint[states] = []
            elif len(rest) == 1 and place == "optimizer":
                _set_in_groups(checkpoint, rest[0], change)
            elif len(rest) == 1:
                for state in checkpoint.get(states, []):
                    if rest[0] in state:
                        state[rest[0]] = change.new


def _set_in_groups(checkpoint: dict[str, Any], name: str, change: Change) -> None:
    value = tuple(change.new) if isinstance(change.new, list) else change.new
    scaled = name == "lr" and checkpoint.get("lr_schedulers") and change.old
    for state in checkpoint.get("optimizer_states", []):
        for group in state["param_groups"]:
            if name in group:
                group[name] = group[name] * (value / change.old) if scaled else value
            if name == "lr" and "initial_lr" in group:
                group["initial_lr"] = value
    if scaled:
        for scheduler in checkpoint["lr_schedulers"]:
            if "base_lrs" in scheduler:
                scheduler["base_lrs"] = [value for _ in scheduler["base_lrs"]]
            if "_last_lr" in scheduler:
                scheduler["_last_lr"] = [rate * value / change.old for rate in scheduler["_last_lr"]]
