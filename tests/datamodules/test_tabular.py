"""Parts, statistics, digests and batches of a table."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler

from gradgrad.batches import Batch
from gradgrad.datamodules import TabularRegression
from gradgrad.datamodules.tables import Table
from gradgrad.datamodules.tabular import Rows, as_is
from gradgrad.errors import UsageError


def of_rows(rows, split=0, **published):
    data = TabularRegression("diabetes", split=split)
    x = np.arange(rows, dtype=float)[:, None]
    data.table = Table("toy", "test", ("x",), x, x[:, 0] ** 2, **published)
    return data


@given(rows=st.integers(10, 500), split=st.integers(0, 20))
def test_the_parts_are_disjoint_and_complete(rows, split):
    parts = of_rows(rows, split).parts
    assert sorted(np.concatenate(list(parts.values()))) == list(range(rows))
    assert min(map(len, parts.values())) >= 2  # R2 needs two
    assert len(parts["test"]) == max(2, round(0.1 * rows))


def test_a_published_split_is_kept_and_its_last_fifth_validates():
    train, test = np.arange(3, 13), np.array([0, 1, 2])
    parts = of_rows(13, train=train, test=test).parts
    assert {name: rows.tolist() for name, rows in parts.items()} == {
        "training": [3, 4, 5, 6, 7, 8, 9, 10],
        "validation": [11, 12],
        "test": [0, 1, 2],
    }


def test_the_split_depends_on_its_number_alone():
    torch.manual_seed(0)
    first = of_rows(50, split=3).parts["test"]
    torch.manual_seed(1)
    assert (of_rows(50, split=3).parts["test"] == first).all()
    assert (of_rows(50, split=4).parts["test"] != first).any()


def test_statistics_come_from_the_training_part_only():
    data = of_rows(20)
    data.table.y[data.parts["test"]] = 1e9
    data.table.x[data.parts["validation"]] = -1e9
    rows = data.parts["training"]
    assert data.statistics.y_mean.item() == pytest.approx(data.table.y[rows].mean(), rel=1e-6)
    assert data.statistics.x_std.item() == pytest.approx(data.table.x[rows].std(), rel=1e-6)


def test_a_constant_training_column_is_not_divided_by():
    data = of_rows(20)
    data.table.x[:] = 5
    assert data.statistics.x_std.tolist() == [1]


def test_provenance_tells_parts_apart_and_changes_with_a_value():
    before = of_rows(30).provenance()
    assert [(p.name, p.part, p.rows) for p in before] == [
        ("toy", "training", 22),
        ("toy", "validation", 5),
        ("toy", "test", 3),
    ]
    assert len({p.digest for p in before}) == 3
    assert all(len(p.digest) == 32 for p in before)
    changed = of_rows(30)
    changed.table.y[changed.parts["test"][0]] += 1e-9
    after = changed.provenance()
    assert [a.digest == b.digest for a, b in zip(after, before, strict=True)] == [True, True, False]
    assert of_rows(30).provenance() == before


def test_batches():
    data = TabularRegression("diabetes", batch_size=100)
    data.prepare_data()
    data.setup("fit")
    sizes = [len(batch.x) for batch in data.train_dataloader()]
    assert sizes == [100, 100, 100, 18]
    first, again = (next(iter(data.train_dataloader())) for _ in range(2))
    assert not torch.equal(first.x, again.x)  # shuffled
    (whole,) = data.val_dataloader()
    rows = data.parts["validation"]
    np.testing.assert_array_equal(whole.x.numpy(), data.table.x[rows].astype(np.float32))
    assert whole.y.shape == (len(rows), 1)
    (test,), (predict,) = data.test_dataloader(), data.predict_dataloader()
    assert torch.equal(test.y, predict.y)


def test_rows_are_parted_by_a_distributed_sampler():
    rows = Rows(Batch(torch.arange(10.0)[:, None], torch.arange(10.0)[:, None]))
    halves = [
        DataLoader(rows, batch_size=3, collate_fn=as_is, sampler=DistributedSampler(rows, 2, rank, shuffle=False))
        for rank in (0, 1)
    ]
    seen = [torch.cat([batch.x for batch in half]).flatten().tolist() for half in halves]
    assert seen == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    assert rows[3].x.tolist() == [[3]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            r"^TabularRegression got name None and path None; it takes exactly one of them\.\n"
            r"write: data\.init_args\.name: diabetes, or ",
        ),
        (
            {"name": "diabetes", "path": "a.csv"},
            r"^TabularRegression got name 'diabetes' and path 'a\.csv'; it takes exactly one of them\.",
        ),
        (
            {"name": "diabetes", "target": "y"},
            r"^data set 'diabetes' has its own target and features; they can be chosen only for a file \(path\)\.$",
        ),
        (
            {"name": "diabetes", "split": -1},
            r"^TabularRegression got split -1, batch_size 32; write at least 0 and at least 1\.$",
        ),
        (
            {"name": "diabetes", "batch_size": 0},
            r"^TabularRegression got split 0, batch_size 0; write at least 0 and at least 1\.$",
        ),
    ],
)
def test_senseless_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        TabularRegression(**settings)


def test_an_own_table(tmp_path):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=["a", "b", "y"])
    frame.to_csv(tmp_path / "own.csv", index=False)
    data = TabularRegression(path=str(tmp_path / "own.csv"), target="y")
    data.setup("fit")
    assert len(data.statistics.x_mean) == 2
