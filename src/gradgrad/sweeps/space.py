"""What a sweep varies: keys of the command line, their values or bounds, and when they matter."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from gradgrad.errors import UsageError, nearest, some

KINDS = ("uniform", "log_uniform", "int", "log_int", "categorical")
EXPECTED = "a list of values, or {uniform: [low, high]}, {log_uniform: [low, high]}, {int: [low, high]}, {categorical: [...]}"


class Axis(NamedTuple):
    """One key.

    Attributes:
        key: dotted, as on the command line.
        distribution: Optuna's; values that are no plain ones are in it as JSON.
        when: values of other keys with which this one matters; empty means always.
    """

    key: str
    distribution: BaseDistribution
    when: dict[str, list[Any]]

    @property
    def choices(self) -> list[Any] | None:
        """Its values, where it is no range."""
        if isinstance(self.distribution, CategoricalDistribution):
            return [decoded(choice) for choice in self.distribution.choices]
        return None

    @property
    def ends(self) -> list[Any]:
        """The values that must be right if all are: both ends of a range or of numbers of one kind, else each one of a list."""
        distribution = self.distribution
        if isinstance(distribution, FloatDistribution | IntDistribution):
            return [distribution.low, distribution.high]
        choices = self.choices or []
        if len(choices) > 2 and len({type(choice) for choice in choices}) == 1 and isinstance(choices[0], int | float):
            return [min(choices), max(choices)]
        return choices

    def matters(self, settings: Mapping[str, Any]) -> bool:
        """Tell whether the other keys let this one matter.

        Args:
            settings: values of keys.

        Returns:
            True if each of its conditions holds.
        """
        return all(key in settings and settings[key] in values for key, values in self.when.items())


class Space(tuple[Axis, ...]):
    """All that a sweep varies, conditions before what depends on them."""

    @property
    def keys(self) -> list[str]:
        """Of all axes."""
        return [axis.key for axis in self]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Let Optuna choose.

        Args:
            trial: which has asked.

        Returns:
            Value by key, without those that do not matter.
        """
        settings: dict[str, Any] = {}
        for axis in self:
            if axis.matters(settings):
                settings[axis.key] = decoded(_suggest(trial, axis.key, axis.distribution))
        return settings

    def grid(self) -> Iterator[dict[str, Any]]:
        """List all points.

        Yields:
            Value by key, the last key varying fastest, each point once.

        Raises:
            UsageError: a range, which has no list of values.
        """
        for axis in self:
            if axis.choices is None:
                low, high = axis.ends
                raise UsageError(
                    f"sampler grid: space.{axis.key} is a range.\nexpected: a list of values\n"
                    f"write:    {axis.key}: [{low}, ..., {high}], or sampler: tpe"
                )
        seen = set()
        for values in product(*(axis.choices or [] for axis in self)):
            settings: dict[str, Any] = {}
            for axis, value in zip(self, values, strict=True):
                if axis.matters(settings):
                    settings[axis.key] = value
            if (text := identity(settings)) not in seen:
                seen.add(text)
                yield settings

    def to_be_proved(self) -> Iterator[dict[str, Any]]:
        """List points in which each end of each key occurs, with what it depends on.

        Yields:
            Value by key.
        """
        seen = set()
        always = [axis for axis in self if not axis.when]
        together = [
            {axis.key: axis.ends[min(n, len(axis.ends) - 1)] for axis in always} for n in range(max(len(a.ends) for a in always))
        ]
        alone = [self._conditions(axis) | {axis.key: value} for axis in self if axis.when for value in axis.ends]
        for forced in (*together, *alone):
            settings: dict[str, Any] = {}
            for other in self:
                if other.matters(settings):
                    settings[other.key] = forced.get(other.key, other.ends[0])
            if (text := identity(settings)) not in seen:
                seen.add(text)
                yield settings

    def size(self) -> int | None:
        """Count the points.

        Returns:
            None where there is a range.
        """
        return None if any(axis.choices is None for axis in self) else sum(1 for _ in self.grid())

    def _conditions(self, axis: Axis) -> dict[str, Any]:
        forced: dict[str, Any] = {}
        for key, values in axis.when.items():
            parent = next(other for other in self if other.key == key)
            forced |= self._conditions(parent) | {key: values[0]}
        return forced


def _suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(key, distribution.choices)


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
    for key in written:
        if key == "seed_everything":
            raise UsageError("space.seed_everything: a sweep repeats each point over seeds by itself.\nwrite: seeds: [0, 1, 2]")
        if key in overridden:
            raise UsageError(f"{key} is both in space and in overrides.\nexpected: one of them\nwrite:    it under space only")
    waiting = [_axis(key, value) for key, value in written.items()]
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
    choices = axes[other].choices
    for value in values:
        if choices is not None and value not in choices:
            raise UsageError(
                f"space.{axis.key}: when {other} is {value!r}, which it never is.\n"
                f"expected: one of {some(str(choice) for choice in choices)}"
            )


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
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(low, high, log=log, step=step)


def identity(value: Any) -> str:
    """Write a value so that equal ones have equal texts, and others do not.

    Args:
        value: as YAML reads it.

    Returns:
        JSON.
    """
    return json.dumps(value, sort_keys=True)


def encoded(value: Any) -> str | int | float | bool | None:
    """Make an Optuna choice of a value.

    Args:
        value: as YAML reads it.

    Returns:
        Plain values as they are, but for texts that look like the others; lists and mappings as JSON.
    """
    plain = (
        value is None
        or isinstance(value, bool | int | float)
        or (isinstance(value, str) and value[:1] not in ("", "[", "{", '"'))
    )
    return value if plain else identity(value)


def decoded(choice: Any) -> Any:
    """Take back :func:`encoded`.

    Args:
        choice: Optuna's.

    Returns:
        The value.
    """
    return json.loads(choice) if isinstance(choice, str) and choice[:1] in ("[", "{", '"') else choice


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) < 80 else f"{text[:76]} ..."
