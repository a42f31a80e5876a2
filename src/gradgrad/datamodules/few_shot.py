"""N-way K-shot classification: tasks drawn from classes that lie in memory."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradgrad.batches import TaskBatch, TaskShape
from gradgrad.datamodules.streams import choose, uniforms
from gradgrad.datamodules.task_data import PARTS, Split, TaskData
from gradgrad.errors import UsageError


class Classes(NamedTuple):
    """C classes that tasks are drawn from; a class is a row of examples, perhaps turned.

    Attributes:
        examples: uint8 that stand for 0 to 1, or floating-point numbers that stand for themselves, shape ``(R, M, ...)``.
        counts: how many of its M places each row fills, from the first on, int64, shape ``(R,)``.
        rows: the row of each class, int64, shape ``(C,)``.
        turns: by how many quarter turns, counterclockwise in the last two dimensions, each class is turned, int64, shape
            ``(C,)``; None where no class is.
    """

    examples: Tensor
    counts: Tensor
    rows: Tensor
    turns: Tensor | None = None


class FewShotTasks(TaskData):
    """Tell N classes apart from K examples of each.

    A task is N distinct classes in random order and K + Q distinct examples of each, all with the same probability. The order
    gives the class numbers: support and queries are sorted by them, ``support_y`` is 0 K times, then 1 K times, and so on.
    Examples come as torch's default dtype. The classes stay on the device; a batch is one indexing operation.

    Args:
        ways: classes per task N; 5 is the smaller of the 5 and 20 of Vinyals et al. 2016.
        shots: support examples per class K; 1 is the smaller of their 1 and 5.
        queries: query examples per class Q; 1 is Finn et al.'s at one shot, who take K; others' protocols take 15.
        task_options: of :class:`gradgrad.datamodules.task_data.TaskData`.

    Raises:
        UsageError: a size is below 1.
    """

    def __init__(self, ways: int = 5, shots: int = 1, queries: int = 1, **task_options: Any) -> None:
        super().__init__(**task_options)
        self.ways, self.shots, self.queries = ways, shots, queries
        self.check_sizes("ways", least=2)
        self.check_sizes("shots", "queries")
        self._classes: dict[Split, Classes] = {}
        self._resident: dict[tuple[int, torch.device], Tensor] = {}

    @abstractmethod
    def classes(self, split: Split) -> Classes:
        """Give the classes of a split; asked once per split.

        Args:
            split: ``train``, ``val`` or ``test``.

        Returns:
            Classes on the host.
        """

    @property
    def task_shape(self) -> TaskShape:
        """One example in, one number per way out."""
        return TaskShape(tuple(self._of("train").examples.shape[2:]), self.ways, classification=True)

    def prepare_data(self) -> None:
        """Read the classes and check that tasks can be drawn from them.

        Raises:
            UsageError: too few classes, or too few examples of one.
        """
        super().prepare_data()
        need = self.shots + self.queries
        for split, part in PARTS.items():
            classes = self._of(split)
            if len(classes.rows) < self.ways:
                raise UsageError(
                    f"{self.name}: the {part} part has {len(classes.rows)} classes, a task needs {self.ways}.\n"
                    f"write: data.init_args.ways: {max(len(classes.rows), 2)}, or more classes into {self.source}"
                )
            fewest = int(classes.counts[classes.rows].min())
            if fewest < need:
                raise UsageError(
                    f"{self.name}: a class of the {part} part has {fewest} examples, "
                    f"{self.shots} shots and {self.queries} queries need {need}.\n"
                    f"write: data.init_args.shots and queries that make at most {fewest} together, or more examples"
                )

    def tasks(self, split: Split, first: int, count: int, device: torch.device | None = None) -> TaskBatch:
        """Make a range of tasks.

        Args:
            split: ``train``, ``val`` or ``test``.
            first: number of the first task.
            count: how many.
            device: where to; None means the CPU.

        Returns:
            ``count`` tasks on ``device``.
        """
        device = device or torch.device("cpu")
        classes = self._of(split)
        chosen, places = self._draw(split, first, count)
        x = self._on(device, classes.examples)[classes.rows[chosen][..., None].to(device), places.to(device)]
        if classes.turns is not None:
            x = turned(x, classes.turns[chosen].to(device))
        # A byte stands for a 255th; division after the conversion rounds once.
        x = x.to(torch.get_default_dtype()).div_(255) if x.dtype == torch.uint8 else x.to(torch.get_default_dtype())
        numbers = torch.arange(self.ways, device=device)
        support_y, query_y = (numbers.repeat_interleave(of_each).expand(count, -1) for of_each in (self.shots, self.queries))
        return TaskBatch(x[:, :, : self.shots].flatten(1, 2), support_y, x[:, :, self.shots :].flatten(1, 2), query_y)

    def definition(self, split: Split, count: int) -> Iterable[bytes]:
        """Give the examples, and which of them each task takes.

        Args:
            split: ``train``, ``val`` or ``test``.
            count: how many tasks.

        Returns:
            Bytes to be hashed one after the other.
        """
        tensors = [part for part in self._of(split) if part is not None]
        sizes = repr((self.shots, [tuple(part.shape) for part in tensors])).encode()
        return [sizes, *(part.numpy().tobytes() for part in (*tensors, *self._draw(split, 0, count)))]

    def _draw(self, split: Split, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Draw classes, shape ``(T, N)``, and the places of their examples, shape ``(T, N, K + Q)``."""
        classes, each = self._of(split), self.shots + self.queries
        drawn = uniforms(self.seed, split, first, count, self.ways * (1 + each))
        chosen = choose(drawn[:, : self.ways], len(classes.rows))
        counts = classes.counts[classes.rows[chosen]].flatten()
        places = choose(drawn[:, self.ways :].reshape(-1, each), counts)
        return chosen, places.view(count, self.ways, each)

    def _of(self, split: Split) -> Classes:
        if split not in self._classes:
            self._classes[split] = self.classes(split)
        return self._classes[split]

    def _on(self, device: torch.device, examples: Tensor) -> Tensor:
        key = (id(examples), device)  # splits may share one tensor
        if key not in self._resident:
            self._resident[key] = examples.to(device)
        return self._resident[key]


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Turn square images counterclockwise, all of them in three passes.

    Args:
        x: shape ``(T, N, ..., H, H)``.
        turns: quarter turns 0 to 3, shape ``(T, N)``.

    Returns:
        As ``x``; entry ``(t, n)`` equals ``torch.rot90(x[t, n], turns[t, n], (-2, -1))``.
    """
    turns = turns.view(*turns.shape, *[1] * (x.ndim - turns.ndim))
    x = torch.where(turns % 2 == 1, x.mT, x)
    x = torch.where((turns == 1) | (turns == 2), x.flip(-2), x)
    return torch.where(turns >= 2, x.flip(-1), x)
