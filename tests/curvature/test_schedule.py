"""Steps of the schedules, also where steps come in blocks."""

import pytest

from gradgrad.curvature.schedule import due


def measured(steps, every=None):
    found, previous = [], 0
    for step in steps:
        if due(step, previous, every):
            found.append(step)
            previous = step
    return found


def test_logarithmic():
    assert measured(range(1, 1001)) == [1, 2, 3, 4, 7, 10, 16, 26, 40, 64, 100, 159, 252, 399, 631, 1000]
    assert measured(range(100, 2001, 100)) == [100, 200, 300, 400, 700, 1000, 1600]


@pytest.mark.parametrize(("block", "found"), [(1, [5, 10, 15, 20]), (3, [6, 12, 15]), (10, [10, 20])])
def test_every_so_many(block, found):
    assert measured(range(block, 21, block), every=5) == found


def test_the_first_and_never_twice():
    assert due(7, None, 5)
    assert not due(7, 7, 1)
