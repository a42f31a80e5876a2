"""What is known of each point of a sweep: a point is one Optuna trial, run once per seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gradgrad.sweeps.short_names import short_names
from gradgrad.tracking.secrets import redact, redact_tree

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

STATUS = {"COMPLETE": "finished", "FAIL": "failed", "PRUNED": "pruned", "RUNNING": "running", "WAITING": "waiting"}
OPEN = ("running", "waiting")


class Point(NamedTuple):
    """One point of the space.

    Attributes:
        number: Optuna's number of the trial.
        status: ``finished``, ``failed``, ``pruned``, ``running``, ``waiting``,
            ``duplicate`` of an earlier point, or ``retried`` by a later one.
        settings: by dotted key, redacted.
        runs: by seed, in the order of the sweep; ``skipped`` are seeds of an ended point that never ran.
        mean: over the seeds that have finished; NaN if none has.
        error: standard error of the mean; NaN below two seeds.
        n: seeds in the mean.
        reason: why it failed or was pruned.
        duplicate_of: number of the earlier point.
    """

    number: int
    status: str
    settings: dict[str, Any]
    runs: dict[int, dict[str, Any]]
    mean: float
    error: float
    n: int
    reason: str
    duplicate_of: int | None


def points_of(study: "Study", known: dict[int, Point] | None = None) -> list[Point]:
    """Read the points of a study.

    Args:
        study: with the attributes that a sweep writes.
        known: points that were read before, by number; what has ended is not read again, and added.

    Returns:
        In the order of their numbers.
    """
    seeds = [int(seed) for seed in study.user_attrs.get("seeds", [])]
    ended: dict[int, Point] = {} if known is None else known
    points, retried = [], set()
    for trial in study.get_trials(deepcopy=False):
        point = ended.get(trial.number) or _point(trial, seeds, ended)
        if trial.state.is_finished():
            ended[trial.number] = point
        points.append(point)
        retried.add(trial.user_attrs.get("retry_of"))
    return [point._replace(status="retried") if point.number in retried else point for point in points]


def _point(trial: "FrozenTrial", seeds: list[int], earlier: dict[int, Point]) -> Point:
    copied = trial.user_attrs.get("duplicate_of")
    status = "duplicate" if copied is not None else STATUS[trial.state.name]
    known = {int(seed): run for seed, run in trial.user_attrs.get("runs", {}).items()}
    absent = {"status": "waiting" if status in OPEN else "skipped"}
    order = [] if copied is not None else dict.fromkeys([*seeds, *known])
    runs = {seed: {**known.get(seed, absent), "reason": _said(known.get(seed, {}))} for seed in order}
    values = [run["value"] for run in runs.values() if run["status"] == "finished" and _finite(run.get("value"))]
    mean = statistics.fmean(values) if values else math.nan
    error, n = (statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan), len(values)
    if copied in earlier:
        mean, error, n = earlier[copied].mean, earlier[copied].error, earlier[copied].n
    if status in ("finished", "duplicate") and trial.value is not None:
        mean = trial.value
    settings = redact_tree(trial.user_attrs.get("settings") or trial.params)
    return Point(trial.number, status, settings, runs, mean, error, n, _said(trial.user_attrs), copied)


def _said(attributes: Mapping[str, Any]) -> str:
    reason = attributes.get("reason")
    return redact(str(reason)) if reason else ""


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def ranked(study: "Study", points: Sequence[Point]) -> list[Point]:
    """Sort the finished points.

    Args:
        study: tells the direction.
        points: of it.

    Returns:
        Those with a finite value, best first; of equal ones the earlier first. Duplicates are left out.
    """
    sign = -1 if study.direction.name == "MAXIMIZE" else 1
    return sorted((point for point in points if point.status == "finished" and _finite(point.mean)), key=lambda p: sign * p.mean)


def key_names(study: "Study", points: Sequence[Point]) -> dict[str, str]:
    """Name the keys of the space.

    Args:
        study: with the attribute ``keys``.
        points: of it, in case there are more.

    Returns:
        The short name of each key, in order.
    """
    return short_names(dict.fromkeys([*study.user_attrs.get("keys", []), *(key for point in points for key in point.settings)]))


def objective_name(study: "Study") -> str:
    """Say what is optimized.

    Args:
        study: with the attribute ``metric``.

    Returns:
        The metric's name.
    """
    return str(study.user_attrs.get("metric", "objective"))
