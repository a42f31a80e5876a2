"""A user's own task: CSV, arrays, and every mistake in them."""

import re

import numpy as np
import pytest
import torch

from gradgrad.batches import TaskShape
from gradgrad.datamodules.own_task import read_task
from gradgrad.errors import UsageError

PLANE = TaskShape((2,), 1, classification=False)
WAYS = TaskShape((2,), 3, classification=True)
IMAGES = TaskShape((1, 2, 2), 3, classification=True)


@pytest.fixture
def csv(tmp_path):
    def write(text):
        (tmp_path / "own.csv").write_text(text)
        return str(tmp_path / "own.csv")

    return write


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "own.npz", **arrays)
        return str(tmp_path / "own.npz")

    return write


def test_rows_without_y_are_queries(csv):
    task = read_task(csv("a,y,b\n1,10,2\n3,,4\n5,50,6\n"), PLANE)
    assert task.support_x.tolist() == [[[1, 2], [5, 6]]]
    assert task.support_y.tolist() == [[[10], [50]]]
    assert task.query_x.tolist() == [[[3, 4]]]
    assert task.query_y.shape == (1, 1, 1)
    assert task.query_y.isnan().all()
    assert {part.dtype for part in task} == {torch.float32}


def test_a_column_may_tell_the_part(csv):
    task = read_task(csv("a,b,y,part\n1,2,10,support\n3,4,40,query\n5,6,,query\n"), PLANE)
    assert task.support_y.flatten().tolist() == [10]
    assert task.query_y.flatten()[0] == 40
    assert task.query_y.flatten()[1].isnan()


def test_classes_are_whole_numbers_and_unknown_ones_minus_one(csv):
    task = read_task(csv("a,b,y,part\n1,2,0,support\n3,4,2,query\n5,6,,query\n"), WAYS)
    assert task.support_y.tolist() == [[0]]
    assert task.query_y.tolist() == [[2, -1]]
    assert task.query_y.dtype == torch.int64


def test_arrays_with_and_without_the_truth(npz):
    x = np.arange(8.0).reshape(2, 1, 2, 2)
    task = read_task(npz(support_x=x, support_y=[2, 0], query_x=x[:1]), IMAGES)
    assert task.support_x.shape == (1, 2, 1, 2, 2)
    assert torch.equal(task.support_x[0], torch.tensor(x, dtype=torch.float32))
    assert task.query_y.tolist() == [[-1]]
    task = read_task(npz(support_x=np.ones((3, 2)), support_y=np.ones((3, 1)), query_x=[[1, 2]], query_y=[7]), PLANE)
    assert task.support_y.shape == (1, 3, 1)
    assert task.query_y.tolist() == [[[7]]]


@pytest.mark.usefixtures("float64")
def test_a_task_comes_in_the_default_type(csv):
    assert read_task(csv("a,b,y\n1,2,3\n1,2,\n"), PLANE).support_x.dtype == torch.float64


@pytest.mark.parametrize(
    ("text", "shape", "sentence"),
    [
        ("a,b,z\n1,2,3\n", PLANE, "has no column 'y', its columns are a, b, z"),
        ("a,b,y\n1,2,\n", PLANE, "has no support rows.\nexpected: at least one row with a y"),
        ("a,b,y\n1,2,3\n", PLANE, "has no query rows.\nexpected: at least one row without a y, or with part query"),
        ("a,b,y\n1,,3\n1,2,\n", PLANE, "x of support row 1 is missing or not finite"),
        ("a,b,y\n1,2,3\n1,2,\n1,inf,\n", PLANE, "x of query row 2 is missing or not finite"),
        ("a,b,y,part\n1,2,3,support\n1,2,,support\n1,2,3,query\n", PLANE, "y of support row 2 is missing or not finite"),
        ("a,y\n1,3\n1,\n", PLANE, "a support row has 1 features.\nexpected: 2"),
        (
            "a,b,y\n1,2,3\n1,2,\n",
            WAYS,
            "support row 1 has the class 3.\nexpected: a whole number from 0 to 2, for there are 3 ways",
        ),
        ("a,b,y\n1,2,0.5\n1,2,\n", WAYS, "support row 1 has the class 0.5"),
        ("a,b,y,part\n1,2,0,support\n1,2,-1,query\n", WAYS, "query row 1 has the class -1"),
        ("a,b,y\n1,red,3\n1,2,\n", PLANE, "column 'b' is not numeric, for example 'red'"),
        ("a,b,y,part\n1,2,3,train\n", PLANE, "column 'part' says 'train'.\nexpected: support or query"),
        ("", PLANE, "could not be read: No columns to parse from file"),
        ("a,b,y\n", PLANE, "has no support rows"),
    ],
)
def test_mistakes_in_a_table(csv, text, shape, sentence):
    with pytest.raises(UsageError, match=re.escape(sentence)) as error:
        read_task(csv(text), shape)
    assert len(str(error.value).splitlines()) <= 5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"query_x": None}, "has no array 'query_x', it has support_x, support_y"),
        ({"support_x": np.ones((0, 2)), "support_y": []}, "has no support rows"),
        ({"query_x": np.ones((0, 2))}, "has no query rows"),
        ({"support_y": [1, 2]}, "support_x has 3 rows and support_y 2 numbers"),
        ({"query_y": [1]}, "query_x has 2 rows and query_y 1 numbers"),
        ({"query_x": np.ones((2, 3))}, "a query row has 3 features.\nexpected: 2, an input of this data has the shape [2]"),
        ({"support_x": np.full((3, 2), np.nan)}, "x of support row 1 is missing or not finite"),
        ({"support_y": np.array(["a", "b", "c"])}, "could not be read as arrays of numbers"),
        ({"support_x": np.array([{}, [], ()], dtype=object)}, "could not be read as arrays of numbers"),
    ],
)
def test_mistakes_in_arrays(npz, change, sentence):
    arrays = {"support_x": np.ones((3, 2)), "support_y": [1, 2, 3], "query_x": np.ones((2, 2))} | change
    with pytest.raises(UsageError, match=re.escape(sentence)):
        read_task(npz(**{name: array for name, array in arrays.items() if array is not None}), PLANE)


def test_mistakes_in_the_path(tmp_path):
    with pytest.raises(UsageError, match=r"own.txt is neither CSV nor .npz"):
        read_task("own.txt", PLANE)
    with pytest.raises(UsageError, match=r"task_file .*none.npz is not a file"):
        read_task(str(tmp_path / "none.npz"), PLANE)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UsageError, match=r"torn.npz could not be read as arrays of numbers"):
        read_task(str(tmp_path / "torn.npz"), PLANE)
