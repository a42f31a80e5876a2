"""Shares of ranks, sizes of batches, and the name of a probe."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader, TensorDataset

from gradgrad.curvature.probe import digest, draw
from gradgrad.errors import UsageError


def trainer(loaders, rank=0, ranks=1):
    combined = CombinedLoader(loaders, "max_size_cycle")
    return SimpleNamespace(global_rank=rank, world_size=ranks, fit_loop=SimpleNamespace(_combined_loader=combined))


def numbered(rows, batch_size=4):
    return DataLoader(TensorDataset(torch.arange(rows)), batch_size=batch_size, shuffle=True)


def rows_of(batches):
    return [tuple(part.tolist()) for (part,) in batches]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_sample_once_over_the_ranks(ranks):
    shares = [draw(trainer(numbered(11), rank, ranks), 7, None, seed=0) for rank in range(ranks)]
    taken = sorted(sample for share in shares for rows in rows_of(share.batches) for sample in rows)
    assert len(taken) == len(set(taken)) == 7
    assert taken == sorted(rows_of(draw(trainer(numbered(11)), 7, None, seed=0).batches)[0])
    whole = [draw(trainer(numbered(11), rank, ranks), "train", 2, seed=0).batches for rank in range(ranks)]
    assert sorted(sample for share in whole for rows in rows_of(share) for sample in rows) == list(range(11))


def test_sizes_of_batches():
    assert [len(rows) for rows in rows_of(draw(trainer(numbered(11)), 7, 3, seed=0).batches)] == [3, 3, 1]
    assert [len(rows) for rows in rows_of(draw(trainer(numbered(11)), 100, None, seed=0).batches)] == [11]
    assert [len(rows) for rows in rows_of(draw(trainer(numbered(11)), "train", None, seed=0).batches)] == [11]  # small samples
    images = DataLoader(TensorDataset(torch.zeros(5, 3, 300, 300)), batch_size=2)
    assert [len(part) for (part,) in draw(trainer(images), "train", None, seed=0).batches] == [4, 1]


def test_another_seed_is_another_probe():
    found = {rows_of(draw(trainer(numbered(1000)), 7, None, seed).batches)[0] for seed in range(3)}
    assert len(found) == 3


def test_several_loaders_and_data_sets_of_batches():
    pair = draw(trainer({"a": numbered(5), "b": numbered(9)}), 6, None, seed=0)
    (batch,) = pair.batches
    assert {name: len(part[0]) for name, part in batch.items()} == {"a": 5, "b": 6}
    whole_batches = DataLoader([torch.zeros(4, 2), torch.ones(3, 2)], batch_size=None)
    assert [len(batch) for batch in draw(trainer(whole_batches), "train", None, seed=0).batches] == [4, 3]
    assert [len(batch) for batch in draw(trainer(_Batches()), 5, None, seed=0).batches] == [4, 4]


class _Batches:
    """A loader that is no DataLoader."""

    def __iter__(self):
        return iter([torch.zeros(4, 2)] * 3)


def test_no_loader():
    alone = trainer(numbered(3))
    alone.fit_loop._combined_loader = None
    with pytest.raises(UsageError, match="the probe is to be drawn from the train data, and there is no train dataloader"):
        draw(alone, 3, None, seed=0)


def test_the_name_of_a_probe():
    x = torch.arange(6.0).view(2, 3)
    same = [digest([{"x": x, "y": (x[0], 3)}]), digest([{"x": x.clone(), "y": (x[0], 3)}])]
    others = [digest([{"x": other, "y": (x[0], 3)}]) for other in (x + 1e-6, x.double(), x.T)]
    assert same[0] == same[1]
    assert len({same[0], *others}) == 4
    assert len(same[0]) == 32
