"""Numbers by place: any range at once, uniform, distinct choices with equal chances."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from gradgrad.datamodules.streams import choose, uniforms

RARE = 1e-3  # a fixed stream fails once and for all or never; a sound one does with this probability


@given(seed=st.integers(-3, 2**70), first=st.integers(0, 10**12), count=st.integers(1, 9), draws=st.integers(1, 11))
def test_a_range_is_its_tasks_one_by_one(seed, first, count, draws):
    together = uniforms(seed, "train", first, count, draws)
    assert torch.equal(together, torch.cat([uniforms(seed, "train", first + i, 1, draws) for i in range(count)]))
    assert together.shape == (count, draws)
    assert together.dtype == torch.float64


def test_the_streams_never_change():
    expected = [[0.47640596748987607, 0.6625977007634706], [0.1279792864067587, 0.3803176447591111]]
    assert uniforms(0, "train", 1, 2, 2).tolist() == expected


def test_seeds_and_splits_have_streams_of_their_own():
    drawn = [uniforms(seed, split, 0, 100, 4) for seed in (0, 1) for split in ("train", "val", "test")]
    assert len(torch.cat(drawn).unique()) == 6 * 400


def test_the_numbers_are_uniform_and_independent():
    drawn = uniforms(0, "train", 0, 5000, 4)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert kstest(drawn.flatten().numpy(), "uniform").pvalue > RARE
    pairs = (drawn[:, :2] * 8).long() @ torch.tensor([8, 1])
    assert chisquare(torch.bincount(pairs, minlength=64).numpy()).pvalue > RARE


@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), more=st.integers(0, 9))
def test_a_choice_is_distinct_and_in_range(seed, n, more):
    chosen = choose(uniforms(seed, "train", 0, 20, n), n + more)
    assert chosen.dtype == torch.int64
    assert chosen.min() >= 0
    assert chosen.max() < n + more
    assert all(len(set(row)) == n for row in chosen.tolist())


@pytest.mark.parametrize(("size", "n"), [(5, 3), (4, 4), (6, 1), (7, 2)])
def test_every_ordered_choice_has_the_same_chance(size, n):
    orders = list(itertools.permutations(range(size), n))
    chosen = choose(uniforms(0, "train", 0, 200 * len(orders), n), size)
    seen = torch.bincount(chosen @ size ** torch.arange(n), minlength=size**n)
    expected = torch.tensor([sum(entry * size**i for i, entry in enumerate(order)) for order in orders])
    assert seen.sum() == seen[expected].sum()
    assert chisquare(seen[expected].numpy()).pvalue > RARE


def test_each_task_may_choose_from_its_own_number():
    drawn = uniforms(0, "train", 0, 400, 3)
    sizes = torch.arange(400) % 40 + 3
    expected = torch.cat([choose(drawn[i : i + 1], int(size)) for i, size in enumerate(sizes)])
    assert torch.equal(choose(drawn, sizes), expected)


@pytest.mark.parametrize("size", [2, 3, 5, 1623, 2**20 + 1])
def test_the_largest_uniform_chooses_the_last(size):
    largest = torch.full((1, 2), 1 - 2.0**-53, dtype=torch.float64)
    assert choose(largest, size)[0, 0] == size - 1
