"""Tasks for meta-learning: which ones come when, on which rank; what a task is made of is left to the subclasses."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from gradgrad.batches import DataPart, TaskBatch, TaskShape
from gradgrad.datamodules.blocks import Blocks
from gradgrad.datamodules.checked_sizes import CheckedSizes
from gradgrad.datamodules.own_task import read_task
from gradgrad.datamodules.task_probe import probe_tasks
from gradgrad.errors import UsageError

Split = Literal["train", "val", "test"]
PARTS: dict[Split, str] = {"train": "training", "val": "validation", "test": "test"}


class TaskData(CheckedSizes, LightningDataModule, ABC):
    """An endless stream of training tasks, and fixed tasks to validate and to test on.

    Task i of a split is a function of (``seed``, split, i) alone: independent of workers, ranks, batch size and resume.
    Meta-iteration n trains on the tasks n T to (n + 1) T - 1 with T = ``meta_batch_size``, of which rank r of w takes the r-th of
    w parts; evaluation is always on the tasks 0 to ``eval_tasks - 1``. Batches are made on the device, whole, as the last step
    of their transfer. A module with an attribute ``iterations_per_step`` = k gets a list of k batches per training step, any
    other module one :class:`gradgrad.batches.TaskBatch`; evaluation steps get one ``TaskBatch``.

    Args:
        meta_batch_size: training tasks per meta-iteration, over all ranks; 25 is that of Finn et al. 2017 on sinusoids.
        eval_tasks: validation tasks, and test tasks; 600 as in Finn et al. 2017.
        eval_batch_size: tasks per evaluation step; 100 is a guess, it changes memory and speed, not results.
        seed: of all tasks; 0 is a convention. Runs of one experiment differ in ``seed_everything`` and share their tasks.
        iterations_per_epoch: meta-iterations between validations; 1000 is a guess.
        task_file: a task of your own to predict, see :func:`gradgrad.datamodules.own_task.read_task`; None predicts the first
            test tasks.

    Raises:
        UsageError: a size is below 1.
    """

    name: str
    """Of the data set."""
    source: str
    """Where it came from."""

    def __init__(
        self,
        meta_batch_size: int = 25,
        eval_tasks: int = 600,
        eval_batch_size: int = 100,
        seed: int = 0,
        iterations_per_epoch: int = 1000,
        task_file: str | None = None,
    ) -> None:
        super().__init__()
        self.meta_batch_size, self.eval_tasks, self.eval_batch_size = meta_batch_size, eval_tasks, eval_batch_size
        self.seed, self.iterations_per_epoch, self.task_file = seed, iterations_per_epoch, task_file
        self.check_sizes("meta_batch_size", "eval_tasks", "eval_batch_size", "iterations_per_epoch")

    @property
    @abstractmethod
    def task_shape(self) -> TaskShape:
        """What a network for these tasks takes and gives."""

    @abstractmethod
    def tasks(self, split: Split, first: int, count: int, device: torch.device | None = None) -> TaskBatch:
        """Make a range of tasks, in one call without a loop over tasks.

        Args:
            split: ``train``, ``val`` or ``test``.
            first: number of the first task.
            count: how many.
            device: where to; None means the CPU.

        Returns:
            ``count`` tasks on ``device``.
        """

    @abstractmethod
    def definition(self, split: Split, count: int) -> Iterable[bytes]:
        """Give what determines the first tasks of a split to the last bit, on any machine.

        Args:
            split: ``train``, ``val`` or ``test``.
            count: how many tasks.

        Returns:
            Bytes to be hashed one after the other.
        """

    def provenance(self) -> list[DataPart]:
        """Tell which tasks each part has.

        Returns:
            One entry per part, counted in tasks. The training part has no end: its first meta-batch stands for it.
        """
        parts = []
        for split, part in PARTS.items():
            count = self.meta_batch_size if split == "train" else self.eval_tasks
            digest = hashlib.sha256()
            for piece in self.definition(split, count):
                digest.update(piece)
            parts.append(DataPart(self.name, part, count, digest.hexdigest()[:32], self.source))
        return parts

    def prepare_data(self) -> None:
        """Check the sizes and the user's own task while there is no run yet that a mistake could spoil.

        Raises:
            UsageError: the tasks cannot be shared among the processes.
        """
        ranks = self.trainer.world_size if self.trainer else 1
        if ranks > 1 and self._run.training and self.meta_batch_size % ranks:
            near = [self.meta_batch_size // ranks * ranks, (self.meta_batch_size // ranks + 1) * ranks]
            raise UsageError(
                f"meta_batch_size {self.meta_batch_size} cannot be shared equally by {ranks} processes.\n"
                f"write: data.init_args.meta_batch_size: {' or '.join(str(size) for size in near if size)}"
            )
        if not (self.trainer and self.trainer.predicting) and self._blocks(self.eval_tasks) < ranks:
            raise UsageError(
                f"eval_tasks {self.eval_tasks} in steps of eval_batch_size {self.eval_batch_size} "
                f"leave some of {ranks} processes without any.\n"
                f"write: data.init_args.eval_batch_size: {max(self.eval_tasks // ranks, 1)}, and at least {ranks} eval_tasks"
            )
        if self.task_file is not None:
            read_task(self.task_file, self.task_shape)

    def train_dataloader(self) -> Blocks:
        """Number the training steps of an epoch.

        Returns:
            One number per block of meta-iterations.
        """
        left = self._run.max_steps % self._epoch if self._run.max_steps > 0 else 0
        if left:
            rank_zero_info(
                f"the last {left} of {self._run.max_steps} meta-iterations come after the last validation; "
                "data.init_args.iterations_per_epoch that divides them all would judge these too"
            )
        return Blocks(-(-self._epoch // self._iterations_per_step))

    @property
    def _epoch(self) -> int:
        most = self._run.max_steps
        return min(self.iterations_per_epoch, most) if most > 0 else self.iterations_per_epoch  # a short run is validated too

    def val_dataloader(self) -> range:
        """Number this rank's share of the evaluation steps.

        Returns:
            Every w-th block of ``eval_batch_size`` tasks, where there are w ranks.
        """
        return range(self._run.global_rank, self._blocks(self.eval_tasks), self._run.world_size)

    def test_dataloader(self) -> range:
        """Number this rank's share of the evaluation steps.

        Returns:
            As for validation.
        """
        return self.val_dataloader()

    def predict_dataloader(self) -> range:
        """Number the one prediction step.

        Returns:
            The number 0: on every rank the user's own task, or the first block of test tasks.
        """
        return range(1)

    def probe_batches(self, which: int | str | None, rank: int, ranks: int) -> list[TaskBatch]:
        """Give tasks to measure curvature on.

        Args:
            which: a number of training tasks, or ``val``, the validation tasks; None means the first meta-batch.
            rank: of this process.
            ranks: how many there are.

        Returns:
            This rank's share.
        """
        return probe_tasks(self, which, rank, ranks)

    def transfer_batch_to_device(
        self, batch: int | TaskBatch, device: torch.device, dataloader_idx: int
    ) -> TaskBatch | list[TaskBatch]:
        """Make the tasks of a block, in the run's precision.

        Args:
            batch: number of the block; or tasks that are made already.
            device: where to.
            dataloader_idx: unused, there is one loader.

        Returns:
            One batch; in training a list of them, one per meta-iteration, if the module says ``iterations_per_step``.
        """
        if isinstance(batch, TaskBatch):
            return TaskBatch(*(part.to(device) for part in batch))
        trainer = self._run
        with trainer.precision_plugin.tensor_init_context():
            if trainer.training:
                batches = self._training(device)
                return batches if hasattr(trainer.lightning_module, "iterations_per_step") else batches[0]
            if trainer.predicting and self.task_file is not None:
                return TaskBatch(*(part.to(device) for part in read_task(self.task_file, self.task_shape)))
            first = batch * self.eval_batch_size
            count = min(self.eval_batch_size, self.eval_tasks - first)
            return self.tasks("val" if trainer.validating or trainer.sanity_checking else "test", first, count, device)

    def _training(self, device: torch.device) -> list[TaskBatch]:
        trainer, per_step = self._run, self._iterations_per_step
        progress = trainer.fit_loop.epoch_loop.batch_progress
        block = progress.current.ready  # not the loader's number, which starts again from 0 when a run is resumed
        iterations = max(1, min(per_step, self._epoch - block * per_step))
        # Optimizer steps are iterations whatever the blocks were before a resume; a foreign module may take several per batch.
        counted = hasattr(trainer.lightning_module, "iterations_per_step") and not trainer.lightning_module.automatic_optimization
        iteration = trainer.global_step if counted else progress.total.ready * per_step
        if counted and trainer.max_steps > 0:  # Lightning looks at its limit only between blocks
            iterations = max(1, min(iterations, trainer.max_steps - iteration))
        if trainer.overfit_batches > 0:  # type: ignore[attr-defined]  # set by a function of the connector
            iteration = block * per_step
        ranks, share = trainer.world_size, self.meta_batch_size // trainer.world_size
        tasks = self.tasks("train", iteration * self.meta_batch_size, iterations * self.meta_batch_size, device)
        mine = (part.view(iterations, ranks, share, *part.shape[1:])[:, trainer.global_rank] for part in tasks)
        return [TaskBatch(*parts) for parts in zip(*(part.unbind() for part in mine), strict=True)]

    def _blocks(self, tasks: int) -> int:
        return math.ceil(tasks / self.eval_batch_size)

    @property
    def _iterations_per_step(self) -> int:
        return int(getattr(self._run.lightning_module, "iterations_per_step", 1))

    @property
    def _run(self) -> Trainer:
        assert self.trainer is not None  # Lightning attaches the data before it asks for any
        return self.trainer
