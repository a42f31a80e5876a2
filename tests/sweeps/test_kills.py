"""Kill -9 in mid-sweep, real processes, by the script of experiments/reliability: nothing is lost and nothing twice."""

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kills(reliability):
    return reliability("sweep_kills")


def test_a_sweep_that_is_killed_and_loses_a_trial(tmp_path, kills):
    kills.sweep_file(tmp_path, points=2, epochs=15, launcher="local")
    assert kills.suffer(tmp_path, ["sweep", "trial"], seed=1, longest=0.0) == (2, 2)
    found, values = kills.count(tmp_path, None)
    assert {key: found[key] for key in ("trials", "finished", "lost", "doubled")} == {
        "trials": 4, "finished": 4, "lost": 0, "doubled": 0,
    }  # fmt: skip
    assert found["resumed"] >= 1
    assert values[0] != values[1]  # two seeds
