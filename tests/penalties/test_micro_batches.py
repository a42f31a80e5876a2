"""Batches of any structure, cut."""

from collections import namedtuple

import pytest
import torch

from gradgrad.errors import UsageError
from gradgrad.penalties.micro_batches import micro_batches

Pair = namedtuple("Pair", "x y")
X = torch.arange(5)


@pytest.mark.parametrize(
    ("batch", "read"),
    [
        (X, lambda b: b),
        ((X, X), lambda b: b[1]),
        ([X, {"deep": X}], lambda b: b[1]["deep"]),
        ({"x": X, "y": X}, lambda b: b["y"]),
        (Pair(X, X), lambda b: b.y),
    ],
)
def test_the_structure_stays(batch, read):
    pieces = list(micro_batches(batch, 2))
    assert [count for count, _ in pieces] == [2, 2, 1]
    assert [read(piece).tolist() for _, piece in pieces] == [[0, 1], [2, 3], [4]]
    assert {type(piece) for _, piece in pieces} == {type(batch)}


def test_what_has_no_axis_goes_everywhere():
    assert [piece[1:] for _, piece in micro_batches((X, "name", 3), 3)] == [("name", 3)] * 2
    assert [piece[1].item() for _, piece in micro_batches((X, torch.tensor(7)), 3)] == [7, 7]


def test_a_batch_without_tensors_is_refused():
    with pytest.raises(UsageError, match=r"^the number of samples in a batch of type str is not known\."):
        list(micro_batches("text", 2))


def test_what_is_not_one_per_sample_goes_everywhere():
    weights = torch.ones(7)
    assert [len(piece[1]) for _, piece in micro_batches((X, weights), 2)] == [7, 7, 7]
