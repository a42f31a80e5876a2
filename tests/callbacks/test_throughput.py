"""Rates, by a clock of our own."""

import pytest
import torch

from gradgrad.batches import Batch, TaskBatch
from gradgrad.callbacks import throughput as module
from gradgrad.callbacks.throughput import Throughput


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(module.time, "monotonic", lambda: Clock.now)
    return Clock


def samples(count):
    return Batch(torch.zeros(count, 2), torch.zeros(count, 1))


def tasks(count):
    return TaskBatch(*(torch.zeros(count, 5, 1) for _ in range(4)))


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([samples(8), samples(4)], {"samples_per_second": 6.0}),
        ([tasks(8), [tasks(3), tasks(1)]], {"tasks_per_second": 6.0}),  # a list is what MAML takes
        ([{"image": torch.zeros(12, 3, 4, 4), "name": ["a"] * 12}], {"samples_per_second": 6.0}),
        ([[torch.zeros(12, 1), torch.zeros(7)]], {"samples_per_second": 6.0}),
        (["nothing that has rows", torch.zeros(())], {}),
    ],
)
def test_rates_are_counts_over_seconds_of_all_processes(clock, batches, said):
    rates = Throughput(processes=2, step=3)
    clock.now += 4
    for batch in batches:
        rates.saw(batch)
    clock.now += 100  # what comes after the last batch is no training
    assert rates.report(13) == {**said, "steps_per_second": 2.5}


def test_validations_do_not_count(clock):
    rates = Throughput(processes=1, step=0)
    clock.now += 1
    rates.saw(samples(3))
    rates.pause()
    clock.now += 50
    rates.go_on()
    assert rates.seconds == 1
    clock.now += 1
    rates.saw(samples(3))
    assert rates.report(4) == {"samples_per_second": 3.0, "steps_per_second": 2.0}
