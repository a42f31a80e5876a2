"""The part ``space`` of a sweep file."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from gradgrad.errors import UsageError, nearest, some
from gradgrad.sweeps.space import Axis, Space, encoded, identity

KINDS = ("uniform", "log_uniform", "int", "log_int", "categorical")
RESERVED = ("config", "resume", "ckpt_path", "print_config", "help", "trainer.logger")
ROUNDING = 1e-9  # of a number of steps; that of 64 bits is 1e-16, and each step adds to it
EXPECTED = "a list of values, or {uniform: [low, high]}, {log_uniform: [low, high]}, {int: [low, high]}, {categorical: [...]}"


def plainly(key: str) -> str:
    """Write a key without what the command line lets one leave out.

    Args:
        key: dotted.

    Returns:
        The key without ``init_args``.
    """
    return ".".join(part for part in key.split(".") if part != "init_args")


def parse_space(written: Mapping[str, Any], overridden: Sequence[str]) -> Space:
    """Read the part ``space`` of a sweep file.

    Args:
        written: by key.
        overridden: keys of ``overrides``.

    Returns:
        The axes, those that others depend on first.

    Raises:
        UsageError: nothing to vary, or what is written is no axis.
    """
    if not written:
        raise UsageError("space is empty.\nexpected: at least one key with two values or bounds\nwrite:    <key>: [value, value]")
    spelt: dict[str, str] = {}
    for key in written:
        spelt.setdefault(plainly(key), key)
    for key in written:
        if plainly(key) in RESERVED or key.endswith("experiment_name"):
            raise UsageError(
                f"space.{key}: that key is the sweep's own.\nexpected: keys of the training, such as model.* or data.*"
            )
        if (other := spelt[plainly(key)]) != key:
            raise UsageError(f"space.{key} and space.{other} are one key.\nexpected: each key once")
        if key == "seed_everything":
            raise UsageError("space.seed_everything: a sweep repeats each point over seeds by itself.\nwrite: seeds: [0, 1, 2]")
        if plainly(key) in map(plainly, overridden):
            raise UsageError(f"{key} is both in space and in overrides.\nexpected: one of them\nwrite:    it under space only")
    axes = [_axis(key, value) for key, value in written.items()]
    waiting = [axis._replace(when={spelt.get(plainly(key), key): value for key, value in axis.when.items()}) for axis in axes]
    known = list(written)
    for axis in waiting:
        for other, values in axis.when.items():
            _check_condition(axis, other, values, {each.key: each for each in waiting})
    ordered: list[Axis] = []
    while waiting:
        ready = [axis for axis in waiting if all(key in [done.key for done in ordered] for key in axis.when)]
        if not ready:
            raise UsageError(f"space: the conditions of {some(axis.key for axis in waiting)} go round in a circle.")
        ordered += ready
        waiting = [axis for axis in waiting if axis not in ready]
    ordered = sorted(ordered, key=lambda axis: (_depth(axis, ordered), known.index(axis.key)))
    if all(len({identity(end) for end in axis.ends}) == 1 for axis in ordered):
        raise UsageError(
            "space has one point only.\nexpected: a key with two values or bounds\nwrite:    gradgrad fit for one point"
        )
    return Space(ordered)


def _depth(axis: Axis, axes: Sequence[Axis]) -> int:
    parents = [other for other in axes if other.key in axis.when]
    return 1 + max((_depth(parent, axes) for parent in parents), default=-1)


def _check_condition(axis: Axis, other: str, values: list[Any], axes: Mapping[str, Axis]) -> None:
    if other not in axes:
        near = nearest(other, axes)
        raise UsageError(
            f"space.{axis.key}: when names {other}, which the space does not vary.\nexpected: one of {some(axes)}"
            + (f"\nwrite:    {near}" if near else "")
        )
    distribution = axes[other].distribution
    if isinstance(distribution, FloatDistribution):
        raise UsageError(f"space.{axis.key}: when names {other}, which has bounds.\nexpected: a key with a list or whole numbers")
    if isinstance(distribution, IntDistribution):
        possible: Sequence[Any] = range(distribution.low, distribution.high + 1, distribution.step)
        expected = f"a whole number that space.{other} can be"
    else:
        possible = axes[other].choices or []
        expected = f"one of {some(str(choice) for choice in possible)}"
    for value in values:
        if value not in possible:
            raise UsageError(f"space.{axis.key}: when {other} is {value!r}, which it never is.\nexpected: {expected}")


def _axis(key: str, written: Any) -> Axis:
    when: dict[str, list[Any]] = {}
    if isinstance(written, Mapping):
        rest = dict(written)
        conditions = rest.pop("when", {})
        if not isinstance(conditions, Mapping):
            raise UsageError(f"space.{key}: when is {conditions!r}.\nexpected: when: {{<key>: <value or list of values>}}")
        when = {str(k): v if isinstance(v, list) else [v] for k, v in conditions.items()}
        step = rest.pop("step", None)
        if len(rest) != 1 or next(iter(rest)) not in KINDS:
            odd = next((name for name in rest if name not in KINDS), "")
            near = nearest(odd, [*KINDS, "when", "step"])
            raise UsageError(f"space.{key} is {_short(written)}.\nexpected: {EXPECTED}" + (f"\nwrite:    {near}" if near else ""))
        kind, values = next(iter(rest.items()))
        if not isinstance(values, list):
            raise UsageError(f"space.{key} is {_short(written)}.\nexpected: {EXPECTED}")
        distribution = _choices(key, values) if kind == "categorical" else _range(key, kind, values, step)
    elif isinstance(written, list):
        distribution = _choices(key, written)
    else:
        raise UsageError(f"space.{key} is {_short(written)}.\nexpected: {EXPECTED}\nwrite:    it under overrides, if it is fixed")
    return Axis(key, distribution, when)


def _choices(key: str, values: list[Any]) -> BaseDistribution:
    if not values:
        raise UsageError(f"space.{key} is an empty list.\nexpected: {EXPECTED}")
    texts = [identity(float(value) if type(value) is int else value) for value in values]  # 1 is 1.0, and not true
    for text in texts:
        if texts.count(text) > 1:
            raise UsageError(f"space.{key} has {text} twice.\nexpected: each value once; seeds: [0, 1, 2] repeats a point")
    return CategoricalDistribution([encoded(value) for value in values])


def _range(key: str, kind: str, values: list[Any], step: Any) -> BaseDistribution:
    whole, log = kind.endswith("int"), kind.startswith("log")
    try:
        if any(isinstance(value, bool) for value in values):
            raise TypeError
        low, high = (float(value) for value in values)
        step = None if step is None else float(step)
    except (TypeError, ValueError):
        raise UsageError(f"space.{key}: {kind} is {values}.\nexpected: {kind}: [low, high], two numbers") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"space.{key}: {kind} is {values}.\nexpected: a finite low below a finite high")
    if log and low <= 0:
        raise UsageError(f"space.{key}: {kind} is {values}.\nexpected: a low above 0, for it is a logarithm's\nwrite:    uniform")
    if whole and not (low.is_integer() and high.is_integer() and (step or 1.0).is_integer()):
        raise UsageError(f"space.{key}: {kind} is {values}.\nexpected: whole numbers\nwrite:    uniform or log_uniform")
    if log and step is not None:
        raise UsageError(f"space.{key}: {kind} has a step.\nexpected: a step with uniform or int only")
    if step is not None and not 0 < step <= high - low:
        raise UsageError(f"space.{key}: step is {step:g}.\nexpected: more than 0, at most {high - low:g}")
    if step is not None and abs((count := (high - low) / step) - round(count)) > ROUNDING * count:
        last = f"{low + math.floor(count) * step:g}"
        raise UsageError(
            f"space.{key}: steps of {step:g} do not lead from {low:g} to {high:g}.\nexpected: an end that is one of the values\n"
            f"write:    {kind}: [{low:g}, {last}]"
        )
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) < 80 else f"{text[:76]} ..."
