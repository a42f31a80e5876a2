"""How a sweep stands, in words: how far it is, and its best point."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gradgrad.sweeps.points import OPEN, Point, key_names, objective_name, points_of, ranked
from gradgrad.sweeps.short_names import short_settings

if TYPE_CHECKING:
    from optuna.study import Study
    from rich.console import Console

ASIDE = ("duplicate", "retried")  # not among the points that a sweep is to try


class Standing(NamedTuple):
    """How a sweep stands.

    Attributes:
        points: all.
        names: short ones of the keys.
        best: the finished points, best first.
        counts: of points by status.
        seeds: that each point is run with.
        metric: that is optimized.
        lower: whether less of it is better.
        at: ``best`` or ``last``.
    """

    points: list[Point]
    names: dict[str, str]
    best: list[Point]
    counts: dict[str, int]
    seeds: int
    metric: str
    lower: bool
    at: str

    @property
    def counted(self) -> list[Point]:
        """The points that the sweep is to try; copies of others are none."""
        return [point for point in self.points if point.status not in ASIDE]

    @property
    def ended_runs(self) -> int:
        """Runs that need not be waited for, with those of ended points that never began."""
        return sum(
            sum(run["status"] not in OPEN for run in point.runs.values()) if point.status in OPEN else self.seeds
            for point in self.counted
        )

    @property
    def goal(self) -> str:
        """What is optimized, in words."""
        over = f"mean ± standard error over {self.seeds} seeds" if self.seeds > 1 else "one seed"
        epoch = f"each run at its {self.at}, " if self.at else ""
        return f"{epoch}{over}; {'lower' if self.lower else 'higher'} is better"


def standing(study: "Study", known: dict[int, Point] | None = None) -> Standing:
    """Read how a sweep stands.

    Args:
        study: with the attributes that a sweep writes.
        known: as :func:`gradgrad.sweeps.points.points_of` takes it.

    Returns:
        The points and what follows from them.
    """
    points = points_of(study, known)
    found = Counter(point.status for point in points)
    statuses = ("finished", "failed", "pruned", "running", "waiting", *ASIDE)
    return Standing(
        points=points,
        names=key_names(study, points),
        best=ranked(study, points),
        counts={status: found[status] for status in statuses if found[status]},
        seeds=max(1, len(study.user_attrs.get("seeds", []))),
        metric=objective_name(study),
        lower=study.direction.name == "MINIMIZE",
        at=str(study.user_attrs.get("at", "")),
    )


def with_error(mean: float, error: float) -> str:
    """Write a mean with its standard error, to two digits of the error.

    Args:
        mean: of the values.
        error: NaN or 0 where there is none.

    Returns:
        ``54.50 ± 0.29``, or the mean alone.
    """
    if not (math.isfinite(error) and error > 0):
        return f"{mean:.6g}"
    places = 1 - math.floor(math.log10(error))
    if not 0 <= places <= 6 or abs(mean) >= 1e9:
        return f"{mean:.6g} ± {error:.2g}"
    return f"{mean:.{places}f} ± {error:.{places}f}"


def best_line(now: Standing) -> str:
    """Say which point is best so far.

    Args:
        now: how the sweep stands.

    Returns:
        One line without a newline.
    """
    if not now.best:
        return "best: no point has finished"
    best = now.best[0]
    settings = short_settings(best.settings, now.names)
    return f"best: {now.metric} {with_error(best.mean, best.error)} at {settings} (point {best.number})"


def counts_line(now: Standing, total: int | None) -> str:
    """Count the points.

    Args:
        now: how the sweep stands.
        total: points that are to be tried, where that is known.

    Returns:
        ``12 finished, 1 failed of 20 points``.
    """
    said = ", ".join(f"{count} {status}" for status, count in now.counts.items()) or "nothing begun"
    return f"{said} of {total} points" if total else f"points: {said}"


def failures(now: Standing, most: int = 3) -> Sequence[Point]:
    """List what failed last.

    Args:
        now: how the sweep stands.
        most: how many.

    Returns:
        Failed points, the newest first.
    """
    return [point for point in reversed(now.points) if point.status == "failed"][:most]


def duration(seconds: float) -> str:
    """Write a duration.

    Args:
        seconds: of it.

    Returns:
        ``45 s``, ``12 min``, ``3 h 5 min``, ``2 d 4 h``.
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def writable(text: str, console: "Console") -> str:
    """Leave out what an output cannot write, so that a sign does not end a sweep.

    Args:
        text: to be printed.
        console: that prints it.

    Returns:
        The text, with question marks where the encoding has no sign.
    """
    return text.encode(console.encoding, "replace").decode(console.encoding, "replace")
