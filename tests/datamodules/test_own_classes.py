"""A user's own classes: folders of images, arrays with labels, and every mistake in them."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from gradgrad.datamodules import ArrayTasks, FolderTasks
from gradgrad.datamodules.own_classes import part_classes
from gradgrad.errors import UsageError

PARTS = ("train", "val", "test")
SMALL = {"ways": 2, "size": 6}


def write_images(folder, classes, counts=(3, 5), mode="RGB"):
    """Class i has counts[i % 2] images of the shade 10 * i + 5."""
    for i in range(classes):
        (folder / f"class{i}").mkdir(parents=True)
        for k in range(counts[i % len(counts)]):
            Image.new(mode, (9, 7), 10 * i + 5 if mode == "L" else (10 * i + 5, 0, 255)).save(folder / f"class{i}" / f"{k}.png")
    return folder


def test_classes_are_parted_by_the_seed_alone():
    names = [f"class{i}" for i in range(10)]
    parts = part_classes(names, (0.5, 0.2), 0)
    assert {part: len(places) for part, places in parts.items()} == {"train": 5, "val": 2, "test": 3}
    assert sorted(place for places in parts.values() for place in places) == list(range(10))
    backwards = part_classes(names[::-1], (0.5, 0.2), 0)  # the order of a folder tells nothing
    assert {part: [9 - place for place in places] for part, places in backwards.items()} == parts
    assert part_classes(names, (0.5, 0.2), 1) != parts


@pytest.mark.parametrize("fractions", [(0.0, 0.5), (0.5, 0.0), (0.6, 0.4), (float("nan"), 0.1)])
def test_fractions_that_leave_a_part_empty_are_refused(fractions):
    with pytest.raises(UsageError, match=r"leave a part without classes.\nwrite: data.init_args.fractions"):
        part_classes(["a", "b", "c"], fractions, 0)


def test_folders_of_classes_are_parted(tmp_path):
    data = FolderTasks(str(write_images(tmp_path / "shades", 12)), fractions=(0.5, 0.25), **SMALL)
    data.prepare_data()
    assert [len(data._of(part).rows) for part in PARTS] == [6, 3, 3]
    shades = [set((data._of(part).examples[:, 0, 0, 0, 0]).tolist()) for part in PARTS]
    assert set.union(*shades) == {10 * i + 5 for i in range(12)}
    batch = data.tasks("train", 0, 50)
    assert batch.support_x.shape == (50, 2, 3, 6, 6)
    assert data.task_shape == ((3, 6, 6), 2, True)
    assert torch.equal(batch.support_x, batch.query_x)  # one shade per class
    assert (batch.support_x[:, :, 0] > 0).all()  # ragged: the filling is never taken
    assert (batch.support_x[:, :, 2] == 1).all()
    assert {(part.name, part.source) for part in data.provenance()} == {("shades", str(tmp_path / "shades"))}


def test_folders_of_parts_are_taken_as_they_are(tmp_path):
    for i, part in enumerate(PARTS):
        write_images(tmp_path / part, 2 + i, mode="L")
    data = FolderTasks(str(tmp_path), grey=True, **SMALL)
    data.prepare_data()
    assert [len(data._of(part).rows) for part in PARTS] == [2, 3, 4]
    assert data.tasks("test", 0, 1).support_x.shape == (1, 2, 1, 6, 6)


def test_mistakes_in_folders(tmp_path):
    def told(root, **options):
        with pytest.raises(UsageError, match=r".") as error:
            FolderTasks(str(root), **SMALL | options).prepare_data()
        return str(error.value)

    assert "none is not a folder.\nwrite: data.init_args.root" in told(tmp_path / "none")
    write_images(tmp_path / "half" / "train", 3)
    assert "has no folder 'val'.\nexpected: train, val and test, or one folder per class" in told(tmp_path / "half")
    root = write_images(tmp_path / "all", 12)
    assert "all: the validation part has 2 classes, a task needs 4" in told(root, ways=4)
    assert "a class of the training part has 3 examples, 3 shots and 1 queries need 4" in told(root, shots=3)
    for i in range(12):
        (root / f"class{i}" / "0.png").write_bytes(b"no image")
    assert "0.png is no image that can be read: cannot identify" in told(root)
    for path in root.glob("*/*.png"):
        path.unlink()
    assert "has no images.\nexpected: files that end in .png, .jpg" in told(root)
    (tmp_path / "empty").mkdir()
    assert "empty: the training part has 0 classes" in told(tmp_path / "empty")
    with pytest.raises(UsageError, match="FolderTasks got size 0"):
        FolderTasks(str(root), size=0)


@pytest.fixture
def array(tmp_path):
    def write(**change):
        rng = np.random.default_rng(0)
        y = rng.integers(20, size=400)
        arrays = {"x": (y[:, None] + np.arange(4)).astype(float), "y": y} | change
        np.savez(tmp_path / "own.npz", **{name: value for name, value in arrays.items() if value is not None})
        return str(tmp_path / "own.npz")

    return write


def test_rows_of_an_array_are_grouped_by_label(array):
    data = ArrayTasks(array(), ways=3, shots=2)
    data.prepare_data()
    assert [len(data._of(part).rows) for part in PARTS] == [13, 3, 4]
    batch = data.tasks("train", 0, 20)
    assert batch.support_x.shape == (20, 6, 4)
    assert data.task_shape == ((4,), 3, True)
    label = batch.support_x[..., 0]
    assert (label.view(20, 3, 2) == label.view(20, 3, 2)[..., :1]).all()
    assert torch.equal(label.view(20, 3, 2)[..., 0], batch.query_x[..., 0])
    labels = [set((data._of(part).examples[:, 0, 0]).tolist()) for part in PARTS]
    assert sum(map(len, labels)) == len(set.union(*labels)) == 20


def test_words_may_be_labels_and_bytes_examples(array):
    y = np.array(["cat", "dog", "eel", "fox"] * 5)
    data = ArrayTasks(array(x=np.full((20, 1, 2, 2), 51, np.uint8), y=y), fractions=(0.5, 0.25), ways=2)
    assert (data.tasks("train", 0, 1).support_x == 0.2).all()
    with pytest.raises(UsageError, match="the validation part has 1 classes"):
        data.prepare_data()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"y": None}, "could not be read: 'y is not a file in the archive'"),
        ({"y": np.zeros(3)}, "x has the shape [400, 4] and y [3].\nexpected: x (n, ...) and y (n,) of one length"),
        ({"x": np.zeros(400)}, "x has the shape [400] and y [400]"),
        ({"x": np.array([["a"]] * 400)}, "x is of type <U1.\nexpected: numbers"),
        ({"x": np.array([[0.0]] * 399 + [[np.nan]])}, "1 row(s) of x have a number that is not finite, the first is row 399"),
        ({"x": np.array([[{}]] * 400)}, "could not be read: Object arrays cannot be loaded"),
    ],
)
def test_mistakes_in_arrays(array, change, sentence):
    with pytest.raises(UsageError, match=re.escape(sentence)) as error:
        ArrayTasks(array(**change)).prepare_data()
    assert len(str(error.value).splitlines()) <= 5


def test_a_missing_or_torn_array_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none.npz is not a file"):
        ArrayTasks(str(tmp_path / "none.npz")).prepare_data()
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(UsageError, match=r"torn.npz could not be read"):
        ArrayTasks(str(tmp_path / "torn.npz")).prepare_data()
