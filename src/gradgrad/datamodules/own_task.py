"""A user's own task, read from a file."""

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradgrad.batches import TaskBatch, TaskShape
from gradgrad.errors import UsageError, some

Floats = NDArray[np.float64]
ARRAYS = ("support_x", "support_y", "query_x")


def read_task(path: str, shape: TaskShape) -> TaskBatch:
    """Read one task.

    A CSV file has a column ``y`` and as many others as an input has numbers, in their order; rows whose ``y`` is empty are
    queries. With a column ``part`` that says ``support`` or ``query``, queries may have a ``y`` too. A ``.npz`` file has the
    arrays ``support_x``, ``support_y``, ``query_x`` and, if known, ``query_y``.

    Args:
        path: ends in ``.csv`` or ``.npz``; relative to the current folder.
        shape: what an input is, how many classes there are.

    Returns:
        A batch of one task, T = 1, on the host in torch's default dtype; class numbers are int64. Unknown targets of queries
        are NaN, or -1 for classes.

    Raises:
        UsageError: the file, a column or a number cannot be used.
    """
    file = Path(path)
    readers = {".csv": _from_csv, ".npz": _from_npz}
    if file.suffix not in readers:
        raise UsageError(f"task_file {path} is neither CSV nor .npz.\nwrite: data.init_args.task_file: <file.csv or file.npz>")
    if not file.is_file():
        raise UsageError(f"task_file {path} is not a file.\nwrite: data.init_args.task_file: <an existing file>")
    support_x, support_y, query_x, query_y = readers[file.suffix](file)
    for name, rows in (("support", support_x), ("query", query_x)):
        if len(rows) == 0:
            what = "with a y" if name == "support" else "without a y, or with part query"
            raise UsageError(f"{path} has no {name} rows.\nexpected: at least one row {what}")
    return TaskBatch(
        _inputs(path, "support", support_x, shape),
        _targets(path, "support", support_x, support_y, shape),
        _inputs(path, "query", query_x, shape),
        _targets(path, "query", query_x, query_y, shape),
    )


def _from_csv(path: Path) -> tuple[Floats, ...]:
    try:
        frame = pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors
        raise UsageError(f"{path} could not be read: {str(error).splitlines()[0]}") from error
    columns = list(frame.columns)
    if "y" not in columns:
        raise UsageError(f"{path} has no column 'y', its columns are {some(columns)}.\nwrite: y over the column of targets")
    for column in columns:
        if column != "part":
            numbers = pd.to_numeric(frame[column], errors="coerce")
            wrong = frame[column][numbers.isna() & frame[column].notna()]
            if len(wrong):
                raise UsageError(
                    f"{path}: column {column!r} is not numeric, for example {wrong.iloc[0]!r}.\n"
                    "write: a number into every row of it (only y may be empty)"
                )
            frame[column] = numbers
    if "part" in columns:
        unknown = [part for part in frame["part"].unique() if part not in ("support", "query")]
        if unknown:
            raise UsageError(f"{path}: column 'part' says {unknown[0]!r}.\nexpected: support or query in every row")
        support = (frame["part"] == "support").to_numpy()
    else:
        support = frame["y"].notna().to_numpy()
    x = frame[[column for column in columns if column not in ("y", "part")]].to_numpy(np.float64)
    y = frame["y"].to_numpy(np.float64)
    return x[support], y[support], x[~support], y[~support]


def _from_npz(path: Path) -> tuple[Floats, ...]:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:  # numpy leaves a torn file open
            arrays = {name: _numbers(file[name]) for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path} could not be read as arrays of numbers.\nwrite: numpy.savez({path.name!r}, support_x=...)"
        ) from error
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise UsageError(
            f"{path} has no array {missing[0]!r}, it has {some(arrays) or 'none'}.\n"
            f"expected: {some(ARRAYS)}, and query_y if known"
        )
    support_x, support_y, query_x = (np.atleast_1d(arrays[name]) for name in ARRAYS)
    query_y = np.atleast_1d(arrays.get("query_y", np.full(len(query_x), math.nan)))
    for name, x, y in (("support", support_x, support_y), ("query", query_x, query_y)):
        if y.size != len(x):
            raise UsageError(f"{path}: {name}_x has {len(x)} rows and {name}_y {y.size} numbers.\nexpected: one number per row")
    return support_x, support_y.ravel(), query_x, query_y.ravel()


def _numbers(array: NDArray[Any]) -> Floats:
    # Bytes are images, as everywhere here: from 0 to 1.
    return array.astype(np.float64) / (255 if array.dtype == np.uint8 and array.ndim > 1 else 1)


def _inputs(path: str, part: str, x: Floats, shape: TaskShape) -> Tensor:
    features = x.size // len(x)
    if features != math.prod(shape.inputs):
        raise UsageError(
            f"{path}: a {part} row has {features} features.\n"
            f"expected: {math.prod(shape.inputs)}, an input of this data has the shape {list(shape.inputs)}"
        )
    _refuse(path, part, "x", ~np.isfinite(x))
    return torch.as_tensor(x, dtype=torch.get_default_dtype()).view(1, len(x), *shape.inputs)


def _targets(path: str, part: str, x: Floats, y: Floats, shape: TaskShape) -> Tensor:
    unknown = np.isnan(y) & (part == "query")
    _refuse(path, part, "y", ~np.isfinite(y) & ~unknown)
    if not shape.classification:
        return torch.as_tensor(y, dtype=torch.get_default_dtype()).view(1, -1, 1)
    wrong = ~unknown & ((y % 1 != 0) | (y < 0) | (y >= shape.outputs))
    if wrong.any():
        raise UsageError(
            f"{path}: {part} row {np.argmax(wrong) + 1} has the class {y[wrong][0]:g}.\n"
            f"expected: a whole number from 0 to {shape.outputs - 1}, for there are {shape.outputs} ways"
        )
    return torch.as_tensor(np.where(unknown, -1, y).astype(np.int64))[None]


def _refuse(path: str, part: str, what: str, bad: NDArray[np.bool_]) -> None:
    if bad.any():
        raise UsageError(
            f"{path}: {what} of {part} row {np.argwhere(bad)[0][0] + 1} is missing or not finite.\n"
            "expected: a finite number in every place; only the y of a query may be missing"
        )
