"""Tasks to measure curvature on."""

from typing import TYPE_CHECKING

from gradgrad.batches import TaskBatch
from gradgrad.errors import UsageError

if TYPE_CHECKING:
    from gradgrad.datamodules.task_data import TaskData


def probe_tasks(data: "TaskData", which: int | str | None, rank: int, ranks: int) -> list[TaskBatch]:
    """Choose tasks that are the same at every measurement.

    Args:
        data: makes them.
        which: a number of training tasks, or ``val``, the validation tasks; None means the first meta-batch.
        rank: of this process.
        ranks: how many there are.

    Returns:
        This rank's share: every task is one rank's.

    Raises:
        UsageError: ``train``, which has no end.
    """
    if which == "train":
        raise UsageError(
            f"the training tasks of {data.name} have no end, so they cannot all be a probe.\n"
            f"write:    a number of tasks (null is the first {data.meta_batch_size}), or val"
        )
    if which == "val":
        size, count = data.eval_batch_size, data.eval_tasks
        batches = [data.tasks("val", first, min(size, count - first)) for first in range(0, count, size)]
    else:
        batches = [data.tasks("train", 0, data.meta_batch_size if which is None else int(which))]
    shares = [TaskBatch(*(part[rank::ranks] for part in batch)) for batch in batches]
    return [share for share in shares if len(share.support_x)]
