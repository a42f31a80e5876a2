"""When to measure."""

import math


def level(step: int, per_decade: int) -> int:
    """Number the intervals between the steps 1, 2, 3, 4, 6, 10, 16, ..., so many to a factor of ten.

    Args:
        step: optimizer steps done.
        per_decade: how many to a factor of ten.

    Returns:
        -1 for step 0, else a number that grows by at least 1 from one of these steps to the next.
    """
    return math.floor(per_decade * math.log10(step) + 1e-9) if step else -1


def due(step: int, previous: int | None, every: int | None, per_decade: int = 5) -> bool:
    """Say whether a measurement is due, also where steps come in blocks.

    Args:
        step: optimizer steps done.
        previous: of the last measurement; None before the first.
        every: steps between measurements; None means a logarithmic schedule.
        per_decade: of that.

    Returns:
        Whether a step of the schedule has been reached since.
    """
    if previous is None or step <= previous:
        return previous is None
    if every is not None:
        return step // every > previous // every
    return level(step, per_decade) > level(previous, per_decade)
