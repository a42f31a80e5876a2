"""Tables good and bad; each bad one gets its sentence."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gradgrad.datamodules.tables import read_bundled, read_file, read_uci
from gradgrad.errors import UsageError

EPS = np.finfo(np.float64).eps  # pandas before 3 reads decimals to within an ulp or two


@pytest.fixture
def frame():
    generator = np.random.default_rng(0)
    return pd.DataFrame(generator.normal(size=(20, 3)), columns=["a", "b", "y"])


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def to_file(frame, name="table.csv"):
        frame.to_parquet(name) if name.endswith("parquet") else frame.to_csv(name, index=False)
        return name

    return to_file


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "table.parquet"])
def test_a_file(frame, write, name):
    table = read_file(write(frame, name), "y", None)
    assert (table.name, table.source, table.features) == ("table", name, ("a", "b"))
    np.testing.assert_allclose(table.x, frame[["a", "b"]].to_numpy(), rtol=4 * EPS)
    np.testing.assert_allclose(table.y, frame["y"].to_numpy(), rtol=4 * EPS)


def test_chosen_features(frame, write):
    assert read_file(write(frame), "y", ["b"]).features == ("b",)


def test_diabetes():
    table = read_bundled("diabetes")
    assert table.x.shape == (442, 10)
    assert table.y.mean() == pytest.approx(152.13348416289594)  # scikit-learn's documentation: mean 152


def test_california_housing_is_read_from_scikit_learns_cache(tmp_path, monkeypatch):
    import joblib

    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    columns = np.random.default_rng(0).uniform(1, 9, size=(30, 9))
    joblib.dump(columns, tmp_path / "cal_housing_py3.pkz")
    table = read_bundled("california_housing")
    assert table.x.shape == (30, 8)
    assert table.features[0] == "MedInc"


def test_california_housing_without_a_network(tmp_path, monkeypatch):
    from sklearn import datasets

    def unreachable():
        raise OSError("no route")

    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "fetch_california_housing", unreachable)
    with pytest.raises(
        UsageError,
        match=r"^california_housing could not be downloaded: no route\n"
        rf"expected: a network, or scikit-learn's copy of it in {tmp_path}\n"
        r"write:    data\.init_args\.name: diabetes, which needs no download$",
    ):
        read_bundled("california_housing")


def spoilt(frame, column, row, value):
    frame = frame.astype(object)
    frame.loc[row, column] = value
    return frame


BAD = {
    "target not named": (
        lambda f: f,
        None,
        None,
        r"^table\.csv: no target was named\.\nwrite: data\.init_args\.target, one of a, b, y$",
    ),
    "target not found": (
        lambda f: f.rename(columns={"y": "price"}),
        "prize",
        None,
        r"^table\.csv: target 'prize' is not a column\.\nexpected: one of a, b, price\nwrite:    data\.init_args\.target: price$",
    ),
    "missing column": (
        lambda f: f,
        "y",
        ["a", "bb"],
        r"^table\.csv: features 'bb' is not a column\.\nexpected: one of a, b, y\nwrite:    data\.init_args\.features: b$",
    ),
    "no feature": (
        lambda f: f[["y"]],
        "y",
        None,
        r"^table\.csv: there is no feature beside the target 'y'\.\nexpected: at least two columns$",
    ),
    "not numeric": (
        lambda f: f.assign(city="Rome"),
        "y",
        None,
        r"^table\.csv: column 'city' is not numeric, for example 'Rome'\.\n"
        r"write: numbers into it, or leave it out by data\.init_args\.features: \[a, b\]$",
    ),
    "not a number": (
        lambda f: spoilt(f, "b", 4, np.nan),
        "y",
        None,
        r"^table\.csv: 1 value\(s\) are missing or not finite, the first in row 5, column 'b'\.\n"
        r"expected: a finite number in every place\n"
        r"write:    drop or fill those rows first; nothing is imputed silently$",
    ),
    "infinite target": (
        lambda f: spoilt(f, "y", 0, np.inf),
        "y",
        None,
        r"^table\.csv: 1 value\(s\) are missing or not finite, the first in row 1, column 'target'\.\n",
    ),
    "constant column": (
        lambda f: f.assign(c=3.0),
        "y",
        None,
        r"^table\.csv: column 'c' is constant \(3 in every row\), it can tell nothing\.\n"
        r"write: data\.init_args\.features without it: \[a, b\]$",
    ),
    "constant target": (
        lambda f: f.assign(y=2.5),
        "y",
        None,
        r"^table\.csv: the target is constant \(2\.5 in every row\); there is nothing to predict\.$",
    ),
    "target among the features": (
        lambda f: f,
        "y",
        ["a", "y", "a"],
        r"^table\.csv: features \['a', 'y', 'a'\] name the target 'y' or a column twice\.\n"
        r"write: data\.init_args\.features: \[a\]$",
    ),
    "too fine for float32": (
        lambda f: f.assign(b=1e9 + f["b"]),
        "y",
        None,
        r"^table\.csv: column 'b' runs from 1e\+09 to 1e\+09; float32 cannot tell that apart\.\n"
        r"write: the same column less an offset, or in another unit$",
    ),
    "too large for float32": (
        lambda f: f.assign(b=1e300 * f["b"]),
        "y",
        None,
        r"^table\.csv: column 'b' runs from -.*e\+300 to .*e\+300; float32 cannot tell that apart\.\n",
    ),
    "too short": (
        lambda f: f.head(9),
        "y",
        None,
        r"^table\.csv has 9 rows\.\nexpected: at least 10, to part them in three$",
    ),
}


@pytest.mark.parametrize(("spoil", "target", "features", "message"), BAD.values(), ids=BAD)
def test_a_bad_file(frame, write, spoil, target, features, message):
    with pytest.raises(UsageError, match=message):
        read_file(write(spoil(frame)), target, features)


def test_an_empty_file(write):
    Path("empty.csv").write_text("")
    with pytest.raises(UsageError, match=r"^empty\.csv is empty\.\nexpected: a line of column names and at least 10 rows$"):
        read_file("empty.csv", "y", None)


def test_a_broken_file(write):
    Path("broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(UsageError, match=r"^broken\.parquet could not be read: "):
        read_file("broken.parquet", "y", None)


def test_a_missing_file(write, tmp_path):
    with pytest.raises(
        UsageError,
        match=rf"^none\.csv is not a file \(looked in {tmp_path}\)\.\nwrite: data\.init_args\.path: <an existing file>$",
    ):
        read_file("none.csv", "y", None)


def test_another_kind_of_file(write):
    with pytest.raises(
        UsageError,
        match=r"^a\.xlsx is neither CSV nor Parquet\.\nexpected: a name that ends in \.csv, \.csv\.gz, \.parquet or \.pq$",
    ):
        read_file("a.xlsx", "y", None)


@pytest.fixture
def uci(tmp_path, monkeypatch):
    """A folder as the UCI splits are published: 12 rows, 2 features of which one is constant, 2 splits."""
    monkeypatch.delenv("GRADGRAD_DATA", raising=False)
    folder = tmp_path / "uci" / "toy"
    folder.mkdir(parents=True)
    data = np.random.default_rng(0).normal(size=(12, 3))
    data[:, 1] = 7
    np.savetxt(folder / "data.txt", data)
    np.savetxt(folder / "index_features.txt", [0.0, 1.0])
    np.savetxt(folder / "index_target.txt", [2.0])
    for split in (0, 1):
        np.savetxt(folder / f"index_train_{split}.txt", np.roll(np.arange(12.0), split)[:10])
        np.savetxt(folder / f"index_test_{split}.txt", np.roll(np.arange(12.0), split)[10:])
    return folder


def test_uci(uci):
    table = read_uci(str(uci.parent), "toy", 1)
    assert table.train.tolist() == [11, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert table.test.tolist() == [9, 10]
    assert table.x.shape == (12, 2)  # the constant column stays, as published


def test_uci_below_the_data_folder(uci, monkeypatch):
    monkeypatch.setenv("GRADGRAD_DATA", str(uci.parents[1]))
    assert read_uci(None, "toy", 0).source == str(uci)


@pytest.mark.parametrize("split", [-1, 2])
def test_a_split_out_of_range(uci, split):
    with pytest.raises(UsageError, match=rf"^{uci}: split {split} is out of range\.\nwrite: data\.init_args\.split from 0 to 1$"):
        read_uci(str(uci.parent), "toy", split)


def test_an_unknown_set(uci):
    with pytest.raises(
        UsageError,
        match=rf"^{uci.parent}/toi has no data\.txt\.\nexpected: one of diabetes, california_housing, toy\n"
        rf"write:    data\.init_args\.name: toy$",
    ):
        read_uci(str(uci.parent), "toi", 0)


def test_no_folder_of_sets(uci):
    with pytest.raises(
        UsageError,
        match=r"^'concrete' is not bundled, and no folder of UCI sets is known\.\n"
        r"expected: one of diabetes, california_housing, or a set's folder\n"
        r"write:    data\.init_args\.root: <folder of concrete/data\.txt>, or set GRADGRAD_DATA above it$",
    ):
        read_uci(None, "concrete", 0)


def test_an_index_past_the_data(uci):
    np.savetxt(uci / "index_test_0.txt", [12.0])
    with pytest.raises(
        UsageError, match=rf"^{uci}/index_test_0\.txt points past data\.txt\.\nexpected: whole numbers from 0 to 11$"
    ):
        read_uci(str(uci.parent), "toy", 0)


def test_a_broken_set(uci):
    (uci / "index_target.txt").write_text("two\n")
    with pytest.raises(UsageError, match=rf"^{uci}/index_target\.txt could not be read: "):
        read_uci(str(uci.parent), "toy", 0)


@pytest.mark.skipif(not os.environ.get("GRADGRAD_DATA"), reason="GRADGRAD_DATA is unset: the real UCI folders are elsewhere")
@pytest.mark.parametrize(
    ("name", "rows", "features"),
    [("concrete", 1030, 8), ("energy", 768, 8), ("naval", 11934, 16), ("wine", 1599, 11), ("yacht", 308, 6)],
)
def test_the_real_sets(name, rows, features):
    table = read_uci(None, name, 19)
    assert table.x.shape == (rows, features)
    assert sorted([*table.train, *table.test]) == list(range(rows))
