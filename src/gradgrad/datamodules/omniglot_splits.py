"""Which Omniglot characters, and which of their rotations, are for training, validation and test."""

from importlib.resources import files
from pathlib import Path

import numpy as np

from gradgrad.datamodules.omniglot_archive import Characters
from gradgrad.datamodules.task_data import Split
from gradgrad.errors import UsageError, nearest, some

SPLITS = ("finn", "vinyals", "lake")
FOLDERS: tuple[Split, ...] = ("train", "val", "test")

ClassList = list[tuple[int, int]]
"""Row of the character and quarter turns, for each class."""


def split_classes(name: str, characters: Characters, rotations: bool, root: Path | None) -> dict[Split, ClassList]:
    """Part the characters.

    * ``finn``: 1,100 characters to train on, 100 to validate, 423 to test, the sizes of Finn et al. 2017, whose own lists
      depend on the order of a folder and were never published. ``splits/omniglot_finn.txt`` of this package is the list.
    * ``vinyals``: the files of Vinyals et al. 2016 (1,028 / 172 / 423 characters), from ``<root>/splits/vinyals``.
    * ``lake``: the background archive to train on, less every tenth character of its sorted list to validate (868 / 96); the
      evaluation archive to test (659). Lake et al. 2015 have no validation part.

    Args:
        name: ``finn``, ``vinyals`` or ``lake``.
        characters: of both archives.
        rotations: whether each quarter turn of a character is a class of its own, in every part.
        root: folder of the archives, for ``vinyals``.

    Returns:
        Classes by part.

    Raises:
        UsageError: there is no such split, or its files are missing or name unknown characters.
    """
    if name not in SPLITS:
        raise UsageError(
            f"OmniglotTasks got split {name!r}.\n"
            f"expected: one of {some(SPLITS)}\n"
            f"write:    data.init_args.split: {nearest(name, SPLITS) or SPLITS[0]}"
        )
    if name == "vinyals":
        return {part: _vinyals(part, characters, rotations, root) for part in FOLDERS}
    rows = _finn(characters) if name == "finn" else _lake(characters)
    turns = range(4 if rotations else 1)
    return {part: [(row, turn) for row in rows[part] for turn in turns] for part in FOLDERS}


def _finn(characters: Characters) -> dict[Split, list[int]]:
    text = files("gradgrad.datamodules").joinpath("splits/omniglot_finn.txt").read_text(encoding="utf-8")
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    row = {name: i for i, name in enumerate(characters.names)}
    if unknown := [name for _, name in lines if name not in row]:
        raise UsageError(
            f"the archives have no character {unknown[0]}, nor {len(unknown) - 1} others of split 'finn'.\n"
            "expected: the alphabets and characters under the names of brendenlake/omniglot"
        )
    return {part: [row[name] for of, name in lines if of == part] for part in FOLDERS}


def _lake(characters: Characters) -> dict[Split, list[int]]:
    background = np.flatnonzero(characters.background)
    tenth = np.arange(len(background)) % 10 == 9
    return {
        "train": background[~tenth].tolist(),
        "val": background[tenth].tolist(),
        "test": np.flatnonzero(~characters.background).tolist(),
    }


def _vinyals(part: Split, characters: Characters, rotations: bool, root: Path | None) -> ClassList:
    if root is None or not (path := root / "splits" / "vinyals" / f"{part}.txt").is_file():
        raise UsageError(
            f"split 'vinyals' needs the files splits/vinyals/{{train,val,test}}.txt in {root or 'data.init_args.root'}.\n"
            "expected: those of jakesnell/prototypical-networks, data/omniglot/splits\n"
            "write:    data.init_args.split: finn, which needs no file"
        )
    row = {name: i for i, name in enumerate(characters.names)}
    classes = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        name, _, rotation = line.strip().rpartition("/rot")
        if name not in row or rotation not in ("000", "090", "180", "270"):
            raise UsageError(
                f"{path}, line {number}: {line.strip()!r} is no class of Omniglot.\nexpected: as in Gurmukhi/character42/rot090"
            )
        classes.append((row[name], int(rotation) // 90))
    return [(row, turn) for row, turn in classes if rotations or turn == 0]
