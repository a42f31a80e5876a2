"""A real server that dies for good in mid-training: nothing is lost, nothing twice, by the script of experiments/reliability."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outages(reliability):
    return reliability("outages")


def test_a_server_that_is_killed_loses_nothing(outages):
    row, reference = outages.examine("none", outages.nothing, 40, None)
    assert dict(zip(outages.COLUMNS, row, strict=True))["points"] == sum(reference.values()) > 1000
    row, _ = outages.examine("killed", outages.killed_for_good, 40, reference)
    told = dict(zip(outages.COLUMNS, row, strict=True))
    assert {key: told[key] for key in ("points", "lost", "duplicated", "status", "exit", "to sync")} == {
        "points": sum(reference.values()), "lost": 0, "duplicated": 0, "status": "FINISHED", "exit": 0, "to sync": "yes",
    }  # fmt: skip
