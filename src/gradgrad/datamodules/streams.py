"""Random numbers by place instead of by history: number j of task i is a function of (seed, split, i, j) alone."""

import hashlib

import numpy as np
import torch
from torch import Tensor

WORDS = 4  # one step of Philox-4x64 gives four numbers of 64 bits


def uniforms(seed: int, split: str, first: int, count: int, draws: int) -> Tensor:
    """Draw uniform numbers for a range of tasks, in one call whatever the range.

    Philox-4x64-10 [Salmon et al. 2011, SC11], a counter-based generator: the hash of seed and split is its key, and task ``i``
    owns the counters from ``i * ceil(draws / 4)`` on. numpy promises that a bit generator's raw stream never changes.

    Args:
        seed: any integer.
        split: name of the stream, for example ``train``.
        first: number of the first task, at least 0.
        count: how many tasks, C.
        draws: how many numbers each has, D.

    Returns:
        Multiples of 2**-53 in [0, 1), float64 on the host, shape ``(C, D)``.
    """
    steps = -(-draws // WORDS)
    key = int.from_bytes(hashlib.sha256(f"{seed} {split}".encode()).digest()[:16], "little")
    raw = np.random.Philox(key=key, counter=first * steps).random_raw(count * steps * WORDS)
    # 53 bits fill a double; one bit more would round to 1 now and then.
    numbers = torch.from_numpy((raw >> np.uint64(11)) * 2.0**-53)
    return numbers.view(count, steps * WORDS)[:, :draws]


def choose(uniforms: Tensor, size: int | Tensor) -> Tensor:
    """Choose n distinct numbers below ``size`` in random order, every ordered choice with the same probability.

    The first n steps of a Fisher-Yates shuffle [Knuth, TAOCP 2, algorithm P] of an array that is never written down: only what
    was swapped is remembered. The loop runs over n; tasks go side by side.

    Args:
        uniforms: numbers in [0, 1), float64, shape ``(T, n)``.
        size: how many there are to choose from, at least n; one number, or one per task, shape ``(T,)``.

    Returns:
        Distinct integers from 0 to ``size - 1`` in each row, int64, shape ``(T, n)``.
    """
    tasks, n = uniforms.shape
    places = torch.empty(tasks, n, dtype=torch.int64, device=uniforms.device)  # step i swaps the entries i and places[:, i]
    left = torch.empty_like(places)  # what step i left at its place: the entry that was at i
    chosen = torch.empty_like(places)
    for i in range(n):
        # The product stays below its second factor: the largest uniform is 1 - 2**-53.
        places[:, i] = i + (uniforms[:, i] * (size - i)).long()
        before = (places[:, :i], left[:, :i])
        left[:, i] = _entry(torch.full_like(places[:, i], i), *before)
        chosen[:, i] = _entry(places[:, i], *before)
    return chosen


def _entry(place: Tensor, places: Tensor, left: Tensor) -> Tensor:
    """Read the array at ``place``: what the last step that went there left, or the number itself where none did."""
    steps = torch.arange(1, places.shape[1] + 1, device=place.device)
    last = torch.cat([torch.zeros_like(place)[:, None], (places == place[:, None]) * steps], 1).amax(1)  # 0 where none did
    return torch.cat([place[:, None], left], 1).gather(1, last[:, None])[:, 0]
