"""A table as a regression task."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from gradgrad.batches import Batch, DataPart, Statistics
from gradgrad.datamodules.tables import BUNDLED, Table, read_bundled, read_file, read_uci
from gradgrad.errors import UsageError

PARTS = ("training", "validation", "test")


class Rows(Dataset[Batch]):
    """Rows of a table; a batch is one indexing operation, not a loop over samples.

    Args:
        batch: all rows, as one batch.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch.x)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """Collect a batch.

        Args:
            indices: row numbers.

        Returns:
            Those rows, in that order.
        """
        chosen = torch.as_tensor(indices)
        return Batch(self.batch.x[chosen], self.batch.y[chosen])


def as_is(batch: Any) -> Any:
    """Collate nothing: :class:`Rows` gives whole batches (a named function, because workers must pickle it).

    Args:
        batch: a batch.

    Returns:
        The same.
    """
    return batch


class TabularRegression(LightningDataModule):
    """A table in three parts: training, validation, test.

    A UCI set comes with its standard splits; of any other table a tenth of the rows, drawn by the number ``split``, is the test
    part. In both cases the last fifth of the training rows, in the order of the split, is the validation part (the rule of
    the UCI benchmark's code). The same ``split`` gives the same parts whatever ``seed_everything`` is.

    Args:
        name: ``diabetes``, ``california_housing``, or a UCI set's folder name.
        path: a CSV or Parquet file, instead of ``name``.
        target: with ``path``, the column to predict.
        features: with ``path``, the columns to predict from; None means all others.
        root: folder that holds the UCI sets; None means ``$GRADGRAD_DATA/uci``.
        split: which split, from 0.
        batch_size: rows per optimizer step; 32 is the pilot's on diabetes.
        num_workers: loader processes; 0, because an indexed tensor is faster than any of them.

    Raises:
        UsageError: the settings or the data cannot be used; raised before a run is opened.
    """

    def __init__(
        self,
        name: str | None = None,
        path: str | None = None,
        target: str | None = None,
        features: Sequence[str] | None = None,
        root: str | None = None,
        split: int = 0,
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if (name is None) == (path is None):
            raise UsageError(
                f"TabularRegression got name {name!r} and path {path!r}; it takes exactly one of them.\n"
                "write: data.init_args.name: diabetes, or data.init_args.path: <file.csv> with data.init_args.target"
            )
        if path is None and (target is not None or features is not None):
            raise UsageError(f"data set {name!r} has its own target and features; they can be chosen only for a file (path).")
        if split < 0 or batch_size < 1:
            raise UsageError(f"TabularRegression got split {split}, batch_size {batch_size}; write at least 0 and at least 1.")
        self.name, self.path, self.target, self.features, self.root = name, path, target, features, root
        self.split, self.batch_size, self.num_workers = split, batch_size, num_workers

    @cached_property
    def table(self) -> Table:
        """The whole table, read and checked at first use."""
        if self.path is not None:
            return read_file(self.path, self.target, self.features)
        name = str(self.name)
        return read_bundled(name) if name in BUNDLED else read_uci(self.root, name, self.split)

    @cached_property
    def parts(self) -> dict[str, NDArray[np.int64]]:
        """Row numbers by part."""
        table = self.table
        if table.train is None or table.test is None:
            order = np.random.default_rng(self.split).permutation(len(table.y))
            test, train = np.split(order, [max(2, round(0.1 * len(order)))])
        else:
            train, test = table.train, table.test
        training, validation = np.split(train, [min(round(0.8 * len(train)), len(train) - 2)])
        return dict(zip(PARTS, (training, validation, test), strict=True))

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and standard deviation of the training part."""
        rows = self.parts["training"]
        x, y = self.table.x[rows], self.table.y[rows, None]
        numbers = [x.mean(0), x.std(0), y.mean(0), y.std(0)]
        x_mean, x_std, y_mean, y_std = (torch.as_tensor(n, dtype=torch.float32) for n in numbers)
        return Statistics(x_mean, x_std.where(x_std > 0, 1), y_mean, y_std.where(y_std > 0, 1))

    def provenance(self) -> list[DataPart]:
        """Tell which rows each part has.

        Returns:
            One entry per part; its digest changes with any value and with the order of the rows.
        """
        columns = np.column_stack([self.table.x, self.table.y])
        return [
            DataPart(
                self.table.name,
                part,
                len(rows),
                hashlib.sha256(columns[rows].tobytes()).hexdigest()[:32],
                self.table.source,
            )
            for part, rows in self.parts.items()
        ]

    def prepare_data(self) -> None:
        """Download where needed, and check the data while there is no run yet that a mistake could spoil."""
        _ = self.statistics

    def setup(self, stage: str) -> None:
        """Read the table on every rank.

        Args:
            stage: unused; all parts are small.
        """
        self.rows = {part: self._rows(indices) for part, indices in self.parts.items()}

    def _rows(self, indices: NDArray[np.int64]) -> Rows:
        x, y = self.table.x[indices], self.table.y[indices, None]
        return Rows(Batch(torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.float32)))

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffle the training part.

        Returns:
            Batches of ``batch_size`` rows, the last one shorter.
        """
        return self._loader("training", shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Read the validation part.

        Returns:
            Batches in the order of the split.
        """
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Read the test part.

        Returns:
            Batches in the order of the split.
        """
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Predict the test part.

        Returns:
            Batches in the order of the split.
        """
        return self._loader("test")

    def _loader(self, part: str, shuffle: bool = False) -> DataLoader[Batch]:
        # Evaluation needs no graph and no noise: take the largest batch that stays small.
        size = self.batch_size if part == "training" else max(self.batch_size, 1024)
        return DataLoader(self.rows[part], batch_size=size, shuffle=shuffle, num_workers=self.num_workers, collate_fn=as_is)
