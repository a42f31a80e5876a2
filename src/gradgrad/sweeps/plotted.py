"""The finished points of a sweep as numbers that can stand on axes."""

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from gradgrad.sweeps.points import Point, key_names, points_of, ranked
from gradgrad.sweeps.short_names import short_value

if TYPE_CHECKING:
    from optuna.study import Study

FEW = 8  # values of a list that can stand beside an axis
LARGEST = 1e300  # beyond it matplotlib's axes overflow
WIDE = 10.0  # a list of numbers whose largest is so many times its smallest is spread evenly by its logarithm


class Axis(NamedTuple):
    """How a key stands on an axis.

    Attributes:
        log: whether the axis is logarithmic.
        ticks: what to write where, for a list of values; empty for a range.
        whole: whether all finished points have the key.
    """

    log: bool
    ticks: dict[float, str]
    whole: bool


class Plotted(NamedTuple):
    """A study that Optuna can draw.

    Attributes:
        study: in memory; the finished points under their numbers and short names, all values numbers; all others as failed.
        axes: by short name, of the keys that vary, in the order of the sweep.
        points: the finished ones.
        ended: numbers of the points that failed or were pruned.
    """

    study: "Study"
    axes: dict[str, Axis]
    points: list[Point]
    ended: list[int]


def plotted(study: "Study") -> Plotted:
    """Prepare a study for figures.

    Args:
        study: with the attributes that a sweep writes.

    Returns:
        What there is to draw. A choice is a number there: Optuna's figures sort choices as texts.
    """
    import optuna
    from optuna.distributions import FloatDistribution

    everything = points_of(study)
    points = sorted(ranked(study, everything), key=lambda point: point.number)
    ranges = {
        key: bool(getattr(distribution, "log", False))
        for trial in study.get_trials(deepcopy=False)
        for key, distribution in trial.distributions.items()
        if type(distribution).__name__ != "CategoricalDistribution"
    }
    axes: dict[str, Axis] = {}
    columns: dict[str, dict[int, float]] = {}
    for key, name in key_names(study, everything).items():
        values = {point.number: point.settings[key] for point in points if key in point.settings}
        axis, column = _axis(values, ranges.get(key), len(values) == len(points))
        if len(set(column.values())) > 1:
            axes[name], columns[name] = axis, column
    ends = {name: (min(column.values()), max(column.values())) for name, column in columns.items()}
    bounds = {name: FloatDistribution(*ends[name], log=axes[name].log) for name in axes}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # else it tells of a new study
    try:
        copy = optuna.create_study(direction=study.direction)
    finally:
        optuna.logging.set_verbosity(verbosity)
    finished = {point.number for point in points}
    for point in everything:
        if point.number not in finished:
            copy.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
            continue
        known = {name: column[point.number] for name, column in columns.items() if point.number in column}
        copy.add_trial(
            optuna.trial.create_trial(value=point.mean, params=known, distributions={name: bounds[name] for name in known})
        )
    return Plotted(copy, axes, points, [point.number for point in everything if point.status in ("failed", "pruned")])


def _axis(values: dict[int, Any], log: bool | None, whole: bool) -> tuple[Axis, dict[int, float]]:
    """Place values on an axis; ``log`` is None where they come from a list."""
    numbers = sorted({value for value in values.values() if _is_number(value)})
    sizes = [abs(number) for number in numbers if number]
    wide = bool(sizes) and max(sizes) / min(sizes) >= WIDE
    crowded = log is None and wide and numbers[0] <= 0  # a logarithm has no place for them, and without one they stand together
    if all(map(_is_number, values.values())) and not crowded:
        few = numbers if log is None and len(numbers) <= FEW else []
        placed = {point: float(value) for point, value in values.items()}
        return Axis(wide if log is None else log, {float(number): short_value(number) for number in few}, whole), placed
    known = {json.dumps(value, default=str): value for value in values.values()}  # equal ones once, 1 and true are two
    choices = sorted(known, key=lambda text: known[text] if _is_number(known[text]) else math.inf)
    labels = [short_value(known[text], 14).replace("$", r"\$") for text in choices]  # else it is mathematics
    ticks = {float(i): f"{label} ({i})" if labels.count(label) > 1 else label for i, label in enumerate(labels)}
    return Axis(False, ticks, whole), {
        point: float(choices.index(json.dumps(value, default=str))) for point, value in values.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGEST < value < LARGEST
