"""Few-shot tasks from a user's own classes: folders of images, or one array with labels."""

import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradgrad.datamodules.few_shot import Classes, FewShotTasks
from gradgrad.datamodules.streams import choose, uniforms
from gradgrad.datamodules.task_data import PARTS, Split
from gradgrad.errors import UsageError, some

IMAGES = (".png", ".jpg", ".jpeg", ".bmp")


def part_classes(names: Sequence[str], fractions: tuple[float, float], seed: int) -> dict[Split, list[int]]:
    """Part classes, so that no class is in two parts.

    The names are sorted and shuffled by ``seed``; the first ``fractions[0]`` of them train, the next ``fractions[1]`` validate,
    the others test, the borders rounded to whole classes.

    Args:
        names: of the classes, each once.
        fractions: for training and for validation.
        seed: any integer; the same names and seed give the same parts on any machine.

    Returns:
        Places in ``names``, by part.

    Raises:
        UsageError: the fractions leave a part empty.
    """
    train, val = fractions
    if not (train > 0 and val > 0 and train + val < 1):
        raise UsageError(
            f"fractions [{train:g}, {val:g}] leave a part without classes.\n"
            "write: data.init_args.fractions, of training and of validation, both above 0 and together below 1"
        )
    places = sorted(range(len(names)), key=lambda place: names[place])
    shuffled = [places[i] for i in choose(uniforms(seed, "classes", 0, 1, len(names)), len(names))[0].tolist()]
    borders = round(train * len(names)), round((train + val) * len(names))
    return {"train": shuffled[: borders[0]], "val": shuffled[borders[0] : borders[1]], "test": shuffled[borders[1] :]}


def ragged(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack rows of different lengths, the short ones filled with zeros that no task ever takes.

    Args:
        rows: R tensors of shapes ``(M_r, ...)``.

    Returns:
        All in one, shape ``(R, M, ...)`` with the largest M, and their lengths, shape ``(R,)``.
    """
    counts = torch.tensor([len(row) for row in rows])
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), counts


class FolderTasks(FewShotTasks):
    """Few-shot classification of images in folders: ``root/<class>/*.png``, or ``root/{train,val,test}/<class>/*.png``.

    Images (png, jpg, bmp) are resized (Lanczos), shape ``(channels, size, size)``, numbers from 0 to 1. Classes may differ in
    size. All images stay in memory as bytes.

    Args:
        root: the folder.
        fractions: of the classes for training and for validation, where ``root`` has no parts of its own, see
            :func:`part_classes`; 0.64 and 0.16 are those of miniImageNet [Ravi and Larochelle 2017].
        split_seed: of that parting; 0 is a convention.
        size: pixels; 84 is that of miniImageNet.
        grey: whether to take one grey channel instead of three colours.
        options: of :class:`gradgrad.datamodules.few_shot.FewShotTasks`.

    Raises:
        UsageError: the settings or an image cannot be used.
    """

    def __init__(
        self,
        root: str,
        fractions: tuple[float, float] = (0.64, 0.16),
        split_seed: int = 0,
        size: int = 84,
        grey: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.root, self.fractions, self.split_seed, self.size, self.grey = root, fractions, split_seed, size, grey
        self.name, self.source = Path(root).resolve().name, root
        self.check_sizes("size")

    def classes(self, split: Split) -> Classes:
        """Read the images of a part.

        Args:
            split: ``train``, ``val`` or ``test``.

        Returns:
            Its classes.
        """
        folders = self._folders[split]
        if not folders:  # told by the check of sizes, in words
            return Classes(torch.zeros(0, 0, 1, 1, 1), torch.zeros(0).long(), torch.zeros(0).long())
        examples, counts = ragged([self._read(folder) for folder in folders])
        return Classes(examples, counts, torch.arange(len(counts)))

    @cached_property
    def _folders(self) -> dict[Split, list[Path]]:
        root = Path(self.root)
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder.\nwrite: data.init_args.root: <a folder with one folder per class>")
        if any((root / part).is_dir() for part in PARTS):
            missing = [part for part in PARTS if not (root / part).is_dir()]
            if missing:
                raise UsageError(f"{root} has no folder {missing[0]!r}.\nexpected: train, val and test, or one folder per class")
            return {part: self._inside(root / part) for part in PARTS}
        folders = self._inside(root)
        parts = part_classes([folder.name for folder in folders], self.fractions, self.split_seed)
        return {part: [folders[i] for i in places] for part, places in parts.items()}

    def _inside(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))

    def _read(self, folder: Path) -> Tensor:
        from PIL import Image  # half a second that `--help` need not spend

        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
        if not paths:
            raise UsageError(f"{folder} has no images.\nexpected: files that end in {some(IMAGES)}")
        pixels = []
        for path in paths:
            try:
                with Image.open(path) as image:
                    small = image.convert("L" if self.grey else "RGB").resize((self.size,) * 2, Image.Resampling.LANCZOS)
            except (OSError, SyntaxError) as error:  # Pillow's
                raise UsageError(f"{path} is no image that can be read: {error}\nwrite: a good one in its place") from error
            pixels.append(torch.from_numpy(np.array(small)).view(self.size, self.size, -1).permute(2, 0, 1))
        return torch.stack(pixels)


class ArrayTasks(FewShotTasks):
    """Few-shot classification of the rows of an array, in a ``.npz`` file: ``x``, shape ``(n, ...)``, and labels ``y``, ``(n,)``.

    Bytes stand for 0 to 1, all other numbers for themselves. Labels may be any whole numbers or words, classes of any size.

    Args:
        path: of the file.
        fractions: of the classes for training and for validation, see :func:`part_classes`; 0.64 and 0.16 are those of
            miniImageNet [Ravi and Larochelle 2017].
        split_seed: of that parting; 0 is a convention.
        options: of :class:`gradgrad.datamodules.few_shot.FewShotTasks`.

    Raises:
        UsageError: the settings or the file cannot be used.
    """

    def __init__(self, path: str, fractions: tuple[float, float] = (0.64, 0.16), split_seed: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.path, self.fractions, self.split_seed = path, fractions, split_seed
        self.name, self.source = Path(path).stem, path

    def classes(self, split: Split) -> Classes:
        """Take the rows of a part.

        Args:
            split: ``train``, ``val`` or ``test``.

        Returns:
            Its classes.
        """
        x, y = self._arrays
        labels = np.unique(y)
        mine = part_classes([str(label) for label in labels], self.fractions, self.split_seed)[split]
        rows = [torch.from_numpy(x[y == labels[i]]) for i in mine]
        examples, counts = ragged(rows) if rows else (torch.zeros(0, 0, *x.shape[1:]), torch.zeros(0).long())
        return Classes(examples, counts, torch.arange(len(mine)))

    @cached_property
    def _arrays(self) -> tuple[NDArray[Any], NDArray[Any]]:
        if not Path(self.path).is_file():
            raise UsageError(f"{self.path} is not a file.\nwrite: data.init_args.path: <an existing .npz file>")
        try:
            # numpy leaves a torn file open.
            with Path(self.path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                x, y = file["x"], file["y"]
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{self.path} could not be read: {str(error).splitlines()[0]}\n"
                "expected: numpy.savez(path, x=<numbers, one row per example>, y=<one label per row>)"
            ) from error
        if y.ndim != 1 or x.ndim < 2 or len(x) != len(y):
            raise UsageError(
                f"{self.path}: x has the shape {list(x.shape)} and y {list(y.shape)}.\n"
                "expected: x (n, ...) and y (n,) of one length"
            )
        if x.dtype.kind not in "biuf":
            raise UsageError(f"{self.path}: x is of type {x.dtype}.\nexpected: numbers")
        if not np.isfinite(x).all():
            rows = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(1))
            raise UsageError(
                f"{self.path}: {len(rows)} row(s) of x have a number that is not finite, the first is row {rows[0]}.\n"
                "write: the array without those rows; nothing is imputed silently"
            )
        return x if x.dtype == np.uint8 else x.astype(np.float32), y
