"""Tables of numbers from scikit-learn, from a file, or from a UCI folder, checked before anything is trained on them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradgrad.errors import UsageError, nearest, some

BUNDLED = ("diabetes", "california_housing")
RESOLUTION = 1e-6  # of float32, relative; a column that varies by less would come out constant
MIN_ROWS = 10  # fewer cannot be parted into training, validation and test with two rows each


class Table(NamedTuple):
    """N rows of F features and one target.

    Attributes:
        name: of the data set.
        source: where it came from, a path or ``scikit-learn``.
        features: F column names.
        x: features in their own units, shape ``(N, F)``.
        y: target in its own unit, shape ``(N,)``.
        train: row numbers of a published training part, or None where the datamodule draws one.
        test: row numbers of the published test part, or None.
    """

    name: str
    source: str
    features: tuple[str, ...]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    train: NDArray[np.int64] | None = None
    test: NDArray[np.int64] | None = None


def read_bundled(name: str) -> Table:
    """Read a data set of scikit-learn.

    ``diabetes`` (442 x 10, Efron et al. 2004) comes with the package; its target is disease progression after a year, without
    unit. ``california_housing`` (20,640 x 8, target in 100,000 dollars) is downloaded once by scikit-learn into its own cache.

    Args:
        name: ``diabetes`` or ``california_housing``.

    Returns:
        The table.

    Raises:
        UsageError: the download failed.
    """
    from sklearn import datasets  # half a second that `--help` need not spend

    if name == "diabetes":
        data = datasets.load_diabetes(scaled=False)
    else:
        try:
            data = datasets.fetch_california_housing()
        except OSError as error:
            raise UsageError(
                f"california_housing could not be downloaded: {error}\n"
                f"expected: a network, or scikit-learn's copy of it in {datasets.get_data_home()}\n"
                "write:    data.init_args.name: diabetes, which needs no download"
            ) from error
    return _checked(Table(name, "scikit-learn", tuple(data.feature_names), data.data, data.target))


def read_file(path: str, target: str | None, features: Sequence[str] | None) -> Table:
    """Read a CSV or Parquet file.

    Args:
        path: ends in ``.csv``, ``.csv.gz``, ``.parquet`` or ``.pq``; relative to the current folder.
        target: name of the column to predict.
        features: names of the columns to predict it from; None means all others.

    Returns:
        The table.

    Raises:
        UsageError: the file, a column or a value cannot be used.
    """
    frame = _frame(Path(path))
    columns = [str(column) for column in frame.columns]
    frame.columns = pd.Index(columns)
    if target is None:
        raise UsageError(f"{path}: no target was named.\nwrite: data.init_args.target, one of {some(columns)}")
    chosen = [c for c in columns if c != target] if features is None else list(features)
    for key, wanted in [("target", [target]), ("features", chosen)]:
        for column in wanted:
            if column not in columns:
                raise UsageError(
                    f"{path}: {key} {column!r} is not a column.\n"
                    f"expected: one of {some(columns)}\n"
                    f"write:    data.init_args.{key}: {nearest(column, columns) or columns[0]}"
                )
    if target in chosen or len(set(chosen)) < len(chosen):
        fixed = [c for c in dict.fromkeys(chosen) if c != target]
        raise UsageError(
            f"{path}: features {chosen} name the target {target!r} or a column twice.\n"
            f"write: data.init_args.features: [{some(fixed)}]"
        )
    if not chosen:
        raise UsageError(f"{path}: there is no feature beside the target {target!r}.\nexpected: at least two columns")
    for column in [*chosen, target]:
        if not pd.api.types.is_numeric_dtype(frame[column]):
            example = frame[column].dropna().astype(str).head(1).to_list()
            raise UsageError(
                f"{path}: column {column!r} is not numeric, for example {(example or ['nothing'])[0]!r}.\n"
                f"write: numbers into it, or leave it out by data.init_args.features: [{some(_numeric(frame, target))}]"
            )
    x = frame[chosen].to_numpy(np.float64, na_value=np.nan)
    y = frame[target].to_numpy(np.float64, na_value=np.nan)
    table = _checked(Table(Path(path).name.split(".")[0], path, tuple(chosen), x, y))
    for column, values in zip(chosen, x.T, strict=True):
        if np.ptp(values) == 0:
            others = [c for c in chosen if c != column]
            raise UsageError(
                f"{path}: column {column!r} is constant ({values[0]:g} in every row), it can tell nothing.\n"
                f"write: data.init_args.features without it: [{some(others)}]"
            )
    return table


def read_uci(root: str | None, name: str, split: int) -> Table:
    """Read a UCI set with one of its standard splits [Hernandez-Lobato and Adams 2015, ICML].

    A feature that never changes (naval has two) stays, as in the published tables; it is standardized to 0.

    Args:
        root: the folder that holds one folder per set; None means ``$GRADGRAD_DATA/uci``.
        name: the set's folder, for example ``concrete``.
        split: number of the split, from 0 (20 splits; protein has 5).

    Returns:
        The table with its published parts.

    Raises:
        UsageError: the folder, the set or the split does not exist, or a file in it is broken.
    """
    home = Path(root) if root else Path(os.environ.get("GRADGRAD_DATA", "")) / "uci"
    if not (root or os.environ.get("GRADGRAD_DATA")):
        where = f"data.init_args.root: <folder of {name}/data.txt>, or set GRADGRAD_DATA above it"
        raise UsageError(
            f"{name!r} is not bundled, and no folder of UCI sets is known.\n"
            f"expected: one of {some(BUNDLED)}, or a set's folder\n"
            f"write:    {nearest(name, BUNDLED) or where}"
        )
    folder = home / name
    if not (folder / "data.txt").is_file():
        sets = sorted(p.parent.name for p in home.glob("*/data.txt"))
        raise UsageError(
            f"{folder} has no data.txt.\n"
            f"expected: one of {some([*BUNDLED, *sets])}\n"
            f"write:    data.init_args.name: {nearest(name, [*BUNDLED, *sets]) or (sets or BUNDLED)[0]}"
        )
    splits = len(list(folder.glob("index_train_*.txt")))
    if not 0 <= split < splits:
        raise UsageError(f"{folder}: split {split} is out of range.\nwrite: data.init_args.split from 0 to {splits - 1}")
    data = _numbers(folder / "data.txt", columns=2)
    columns, target, train, test = (
        _numbers(folder / f"index_{part}.txt", columns=1)[:, 0].astype(np.int64)  # indices are written as floats
        for part in ("features", "target", f"train_{split}", f"test_{split}")
    )
    for part, index, size in [("features", columns, data.shape[1]), ("target", target, data.shape[1])] + [
        (f"{part}_{split}", index, len(data)) for part, index in (("train", train), ("test", test))
    ]:
        if index.min() < 0 or index.max() >= size:
            raise UsageError(f"{folder}/index_{part}.txt points past data.txt.\nexpected: whole numbers from 0 to {size - 1}")
    features = tuple(f"x{column}" for column in columns)
    return _checked(Table(name, str(folder), features, data[:, columns], data[:, target[0]], train, test))


def _frame(path: Path) -> pd.DataFrame:
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".pq": pd.read_parquet}
    reader = readers.get(next((s for s in path.suffixes[::-1] if s != ".gz"), ""))
    if reader is None:
        raise UsageError(f"{path} is neither CSV nor Parquet.\nexpected: a name that ends in .csv, .csv.gz, .parquet or .pq")
    if not path.is_file():
        raise UsageError(
            f"{path} is not a file (looked in {path.absolute().parent}).\nwrite: data.init_args.path: <an existing file>"
        )
    try:
        frame: pd.DataFrame = reader(path)  # type: ignore[operator]
    except (ValueError, OSError, EOFError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        if path.stat().st_size == 0:
            raise UsageError(f"{path} is empty.\nexpected: a line of column names and at least {MIN_ROWS} rows") from error
        raise UsageError(f"{path} could not be read: {str(error).splitlines()[0]}") from error
    return frame


def _numbers(path: Path, columns: int) -> NDArray[np.float64]:
    try:
        numbers = np.loadtxt(path, ndmin=2)
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} could not be read: {str(error).splitlines()[0]}") from error
    if len(numbers) == 0 or numbers.shape[1] < columns:
        raise UsageError(f"{path} holds {numbers.shape} numbers.\nexpected: rows of at least {columns} numbers")
    return numbers


def _checked(table: Table) -> Table:
    if len(table.x) < MIN_ROWS:
        raise UsageError(f"{table.source} has {len(table.x)} rows.\nexpected: at least {MIN_ROWS}, to part them in three")
    columns = np.column_stack([table.x, table.y])
    bad = np.argwhere(~np.isfinite(columns))
    if len(bad):
        row, column = bad[0]
        name = [*table.features, "target"][column]
        raise UsageError(
            f"{table.source}: {len(bad)} value(s) are missing or not finite, the first in row {row + 1}, column {name!r}.\n"
            "expected: a finite number in every place\n"
            "write:    drop or fill those rows first; nothing is imputed silently"
        )
    names = [*table.features, "target"]
    with np.errstate(over="ignore"):
        single = columns.astype(np.float32)
    for name, values, rounded in zip(names, columns.T, single.T, strict=True):
        if not np.isfinite(rounded).all() or 0 < np.std(values) < RESOLUTION * np.abs(values).max():
            raise UsageError(
                f"{table.source}: column {name!r} runs from {values.min():g} to {values.max():g}; "
                "float32 cannot tell that apart.\n"
                "write: the same column less an offset, or in another unit"
            )
    if np.ptp(table.y) == 0:
        raise UsageError(f"{table.source}: the target is constant ({table.y[0]:g} in every row); there is nothing to predict.")
    return table


def _numeric(frame: pd.DataFrame, target: str) -> list[str]:
    return [str(c) for c in frame.columns if c != target and pd.api.types.is_numeric_dtype(frame[c])]
