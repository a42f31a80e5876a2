"""A sweep as tables: one row per run, one row per point."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gradgrad.sweeps.points import Point, key_names, points_of

if TYPE_CHECKING:
    from optuna.study import Study
    from pandas import DataFrame


def trials_table(study: "Study") -> "DataFrame":
    """List the runs of a sweep.

    Args:
        study: with the attributes that a sweep writes.

    Returns:
        One row per point and seed: ``point`` and ``trial`` (counted from 0), ``seed``, ``status``, one column per key of the
        space, ``value``, ``step``, ``seconds``, ``run_id``, ``reason``. Duplicates of a point did not run and have no row.
    """
    from pandas import DataFrame

    points = points_of(study)
    names = key_names(study, points)
    per_point = max([len(point.runs) for point in points], default=1)
    rows = [
        {
            "point": point.number,
            "seed": seed,
            "trial": point.number * per_point + place,
            "status": run["status"],
            **_cells(point, names),
            **{column: run.get(column) for column in ("value", "step", "seconds", "run_id")},
            "reason": run["reason"] or (point.reason if run["status"] == "skipped" else ""),
        }
        for point in points
        for place, (seed, run) in enumerate(point.runs.items())
    ]
    columns = ["point", "seed", "trial", "status", *names.values(), "value", "step", "seconds", "run_id", "reason"]
    return DataFrame(rows, columns=columns).astype({"step": "Int64", "value": float, "seconds": float})


def points_table(study: "Study") -> "DataFrame":
    """List the points of a sweep.

    Args:
        study: with the attributes that a sweep writes.

    Returns:
        One row per point: ``point``, ``status``, one column per key of the space, ``mean`` of the objective over the seeds that
        have finished, its ``standard_error``, the number ``n`` of these seeds, ``duplicate_of``, ``reason``.
    """
    from pandas import DataFrame

    points = points_of(study)
    names = key_names(study, points)
    rows = [
        {
            "point": point.number,
            "status": point.status,
            **_cells(point, names),
            "mean": point.mean,
            "standard_error": point.error,
            "n": point.n,
            "duplicate_of": point.duplicate_of,
            "reason": point.reason,
        }
        for point in points
    ]
    columns = ["point", "status", *names.values(), "mean", "standard_error", "n", "duplicate_of", "reason"]
    return DataFrame(rows, columns=columns).astype({"duplicate_of": "Int64"})


def _cells(point: Point, names: Mapping[str, str]) -> dict[str, Any]:
    """Numbers and texts as they are, anything else as JSON; a key that a point does not have stays empty."""
    return {
        names[key]: value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else json.dumps(value)
        for key, value in point.settings.items()
    }
