"""Metrics of two runs, compared bit for bit."""

import math

import pytest

from gradgrad.tracking.agreement import agreement


@pytest.fixture
def run_with(client):
    experiment = client.create_experiment("compared")

    def make(metrics, status="FINISHED", tags=()):
        """Log ``{(key, step): value or values}``."""
        run_id = client.create_run(experiment, tags=dict.fromkeys(tags, "x")).info.run_id
        for (key, step), values in metrics.items():
            for value in values if isinstance(values, list) else [values]:
                client.log_metric(run_id, key, value, step=step)
        client.set_terminated(run_id, status)
        return client.get_run(run_id)

    return make


POINTS = {("train/loss", 0): 0.1, ("train/loss", 1): 1 / 3, ("val/loss", 1): math.nan, ("test/rmse", 0): 5e-324}


def test_identical_but_for_times_and_load(client, run_with):
    first = run_with({**POINTS, ("hessian/seconds", 3): 1.0, ("system/cpu", 3): 1.0, ("train/samples_per_second", 3): 1.0})
    second = run_with({**POINTS, ("hessian/seconds", 3): 2.0})
    assert agreement(client, first, second) == (True, "identical, bit for bit: 4 values of 3 metrics")


def test_the_first_difference_is_that_of_the_smallest_step(client, run_with):
    changed = {**POINTS, ("train/loss", 1): math.nextafter(1 / 3, 1), ("test/rmse", 0): 0.0, ("val/loss", 1): 2.0}
    found = agreement(client, run_with(POINTS), run_with(changed))
    assert found == (
        False,
        "different: 3 of 4 values; the first is train/loss at step 1:"
        " 0.3333333333333333 in the recorded run, 0.33333333333333337 now",
    )


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        ({("a", 1): 1.0, ("a", 2): 2.0}, {("a", 1): 1.0}, "a at step 2: 2.0 in the recorded run, nothing now"),
        ({("a", 1): 1.0}, {("a", 1): 1.0, ("a", 2): 2.0}, "a at step 2: nothing in the recorded run, 2.0 now"),
        ({("a", 1): math.nan}, {("a", 1): 1.0}, "a at step 1: nan in the recorded run, 1.0 now"),
        ({("test/a", 0): 1.0, ("b", 7): 1.0}, {("test/a", 0): 2.0, ("b", 7): 2.0}, "b at step 7: 1.0"),
    ],
)
def test_different(client, run_with, then, now, words):
    found = agreement(client, run_with(then), run_with(now))
    assert not found.identical
    assert words in found.sentence


def test_nothing_to_compare(client, run_with):
    assert agreement(client, run_with({}), run_with(POINTS)) == (False, "the recorded run has no metrics to compare")


def test_a_run_that_was_killed_is_compared_as_far_as_it_went(client, run_with):
    then = {("a", 1): 1.0, ("best/a", 0): 1.0}
    assert agreement(client, run_with(then, "KILLED"), run_with({("a", 1): 1.0, ("a", 2): 2.0, ("best/a", 0): 2.0})).identical
    assert not agreement(client, run_with(then, "KILLED"), run_with({("a", 1): 2.0})).identical


def test_what_later_commands_logged_need_not_be_there(client, run_with):
    then = {("a", 1): 1.0, ("test/a", 0): [1.0, 3.0], ("spectrum/lambda_max", 0): 4.0}
    now = run_with({("a", 1): 1.0, ("test/a", 0): 1.0}, tags=["command.fit"])
    assert agreement(client, run_with(then, tags=["command.fit", "command.test"]), now).identical
    assert not agreement(client, run_with(then, tags=["command.fit"]), now).identical
