"""Handwritten characters of 50 alphabets, each drawn by 20 people."""

from functools import cached_property
from typing import Any

import torch

from gradgrad.batches import TaskShape
from gradgrad.datamodules.few_shot import Classes, FewShotTasks
from gradgrad.datamodules.omniglot_archive import SIDE, Characters, omniglot_root, read_omniglot
from gradgrad.datamodules.omniglot_splits import ClassList, split_classes
from gradgrad.datamodules.task_data import Split


class OmniglotTasks(FewShotTasks):
    """N-way K-shot classification of Omniglot's 1,623 characters [Lake, Salakhutdinov, Tenenbaum 2015, Science].

    Images are 28 x 28 grey levels from 0 (paper) to 1 (ink), shape ``(1, 28, 28)``. The archives (MIT licence) are read once, in
    about 15 s, and kept as an array of 25 MB.

    Args:
        ways: classes per task; 5 is the smaller of the 5 and 20 of Vinyals et al. 2016.
        shots: support images per class; 1 is the smaller of their 1 and 5.
        queries: query images per class; 1 is Finn et al.'s at one shot, who take as many as shots; others' protocols take 15.
        split: ``finn``, ``vinyals`` or ``lake``, see :func:`gradgrad.datamodules.omniglot_splits.split_classes`; the first has
            the sizes of the MAML paper.
        rotations: whether characters turned by 90, 180 and 270 degrees are classes of their own, in training and in test, as
            those of Finn et al.
        root: folder of ``images_background.zip`` and ``images_evaluation.zip``; None means ``$GRADGRAD_DATA/omniglot``, or a
            download where that does not exist.
        cache: folder to keep the array in; None means ``~/.cache/gradgrad``.
        meta_batch_size: training tasks per meta-iteration, over all ranks; 32 is Finn et al.'s at 5 ways, who take 16 at 20.
        task_options: of :class:`gradgrad.datamodules.task_data.TaskData`.

    Raises:
        UsageError: the settings or the archives cannot be used; raised before a run is opened.
    """

    name = "omniglot"

    def __init__(
        self,
        ways: int = 5,
        shots: int = 1,
        queries: int = 1,
        split: str = "finn",
        rotations: bool = True,
        root: str | None = None,
        cache: str | None = None,
        meta_batch_size: int = 32,
        **task_options: Any,
    ) -> None:
        super().__init__(ways=ways, shots=shots, queries=queries, meta_batch_size=meta_batch_size, **task_options)
        self.split, self.rotations, self.root, self.cache = split, rotations, root, cache
        self.source = str(omniglot_root(root) or "brendenlake/omniglot")

    @property
    def task_shape(self) -> TaskShape:
        """One grey image in, one number per way out."""
        return TaskShape((1, SIDE, SIDE), self.ways, classification=True)

    def classes(self, split: Split) -> Classes:
        """Give the characters of a part, or their rotations.

        Args:
            split: ``train``, ``val`` or ``test``.

        Returns:
            Classes that share one array of images.
        """
        rows, turns = torch.tensor(self._parts[split], dtype=torch.int64).view(-1, 2).unbind(1)
        counts = torch.full((len(self._images),), self._images.shape[1])
        return Classes(self._images, counts, rows, turns if self.rotations else None)

    @cached_property
    def _characters(self) -> Characters:
        return read_omniglot(self.root, self.cache)

    @cached_property
    def _images(self) -> torch.Tensor:
        return torch.from_numpy(self._characters.images)[:, :, None]

    @cached_property
    def _parts(self) -> dict[Split, ClassList]:
        return split_classes(self.split, self._characters, self.rotations, omniglot_root(self.root))
