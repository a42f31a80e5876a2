"""What a sweep varies: keys of the command line, their values or bounds, and when they matter."""

import json
import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from gradgrad.errors import UsageError


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
        """The values that must be right if all are: both ends of a range or of a list of floats, else each one of a list."""
        distribution = self.distribution
        if isinstance(distribution, FloatDistribution | IntDistribution):
            return [distribution.low, distribution.high]
        choices = self.choices or []
        floats = all(isinstance(choice, float) and math.isfinite(choice) for choice in choices)
        return [min(choices), max(choices)] if floats and len(choices) > 2 else choices  # whole numbers may be kinds: 16, 32

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
