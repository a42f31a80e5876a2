"""Whether two runs logged the same numbers."""

import math
import re
from typing import TYPE_CHECKING, NamedTuple

from gradgrad.tracking.logger import FINAL

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TIMED = re.compile(r"system/|.*(?:^|[/_])(?:seconds|per_second)(?:$|[/_])")  # what the machine's load decides
Values = dict[tuple[str, int], set[str]]  # as hexadecimal, so that NaN equals itself


class Agreement(NamedTuple):
    """How far a second run says what a first one said.

    Attributes:
        identical: whether each value of the first is in the second, bit for bit, and no other at its step.
        sentence: in words, with the first difference.
    """

    identical: bool
    sentence: str


def agreement(client: "MlflowClient", first: "Run", second: "Run") -> Agreement:
    """Compare the metrics of two runs by name and step.

    Left out are times and the machine's load. Where the first run did not end well, its final values are left out too, and what
    the second logged beyond its end; where later commands logged into it, final values of theirs may be missing.

    Args:
        client: of the store.
        first: the recorded run.
        second: its reproduction.

    Returns:
        The judgement.
    """
    ended = first.info.status == "FINISHED"
    later = [key for key in first.data.tags if key.startswith("command.")][1:]
    before, after = _values(client, first), _values(client, second)
    different = []
    for place in sorted(before | after, key=lambda place: (place[0].startswith(FINAL), place[1], place[0])):
        old, new, final = before.get(place, set()), after.get(place, set()), place[0].startswith(FINAL)
        excused = (not ended and (final or not old)) or (bool(later) and final and new <= old)
        if old != new and not excused:
            different.append((place, old, new))
    count = len(before)
    if not count:
        return Agreement(False, "the recorded run has no metrics to compare")
    if not different:
        names = len({name for name, _ in before})
        return Agreement(True, f"identical, bit for bit: {count:,} values of {names} metrics")
    (name, step), old, new = different[0]
    said = f"different: {len(different):,} of {count:,} values; the first is {name} at step {step}"
    return Agreement(False, f"{said}: {_shown(old)} in the recorded run, {_shown(new)} now")


def _values(client: "MlflowClient", run: "Run") -> Values:
    values: Values = {}
    for key in run.data.metrics:
        if not TIMED.match(key):
            for metric in client.get_metric_history(run.info.run_id, key):
                values.setdefault((key, metric.step), set()).add("nan" if math.isnan(metric.value) else metric.value.hex())
    return values


def _shown(values: set[str]) -> str:
    return " and ".join(sorted(repr(float.fromhex(value)) for value in values)) or "nothing"
