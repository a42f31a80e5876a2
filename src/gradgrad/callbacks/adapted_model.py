"""What was learnt of a user's own task: its predictions, and the adapted model as a file that needs nothing of ours."""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from gradgrad.batches import AdaptedTasks, TaskBatch
from gradgrad.errors import UsageError, some
from gradgrad.tracking.recorder import tracked_logger

FOLDER = "adapted"
FILES = ("predictions.csv", "adapted.pt", "adapted.json")


class AdaptedModel(Callback):
    """Save what ``predict`` adapted.

    ``predictions.csv`` has a row for each query, see :func:`prediction_table`. For a lone task there is also ``adapted.pt``, the
    whole adapted network as a plain state_dict (``network.load_state_dict(torch.load(path, weights_only=True))``), and
    ``adapted.json``, which says what it was adapted to and from: ``support_sha256`` (see :func:`support_digest`),
    ``inner_steps``, ``checkpoint`` and ``network``, the class. They become artifacts of the run, under ``adapted/``, where a
    later prediction of the same run takes their place, and says so. It looks at steps that return a
    :class:`gradgrad.batches.AdaptedTasks`, on rank zero; with any other module it does nothing.

    Args:
        dirpath: a folder that gets the files too, relative to the current one; None means the run's artifacts only.

    Raises:
        UsageError: the folder has such files already.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = None if dirpath is None else Path(dirpath)
        self._seen: list[AdaptedTasks] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look for files that would be lost, before anything is computed.

        Args:
            trainer: unused.
            pl_module: unused.
            stage: Lightning's; only ``predict`` matters.

        Raises:
            UsageError: there are some.
        """
        self._seen = []
        if stage != "predict" or self.dirpath is None:
            return
        if self.dirpath.exists() and not self.dirpath.is_dir():
            raise UsageError(
                f"AdaptedModel got dirpath {self.dirpath}, which is a file.\nwrite: dirpath: <a folder, or a new name>"
            )
        there = [name for name in FILES if (self.dirpath / name).exists()]
        if there:
            raise UsageError(
                f"AdaptedModel got dirpath {self.dirpath}, which has {some(there)} already.\n"
                "expected: a folder without, for an adapted model is never overwritten\n"
                "write:    another dirpath, or move them away"
            )

    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """Collect a batch.

        Args:
            trainer: Lightning's.
            pl_module: unused.
            outputs: of the step.
            args: unused.
        """
        if isinstance(outputs, AdaptedTasks) and trainer.is_global_zero:
            lone = not self._seen and len(outputs.before) == 1
            losses, accuracies, before, after = map(_kept, outputs[1:5])
            params = {name: _kept(p) for name, p in outputs.params.items()} if lone else {}
            self._seen.append(AdaptedTasks(TaskBatch(*map(_kept, outputs.tasks)), losses, accuracies, before, after, params))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write.

        Args:
            trainer: Lightning's.
            pl_module: with the network.
        """
        logger = tracked_logger(trainer.loggers)
        if not self._seen:
            return
        if logger is None and self.dirpath is None:
            rank_zero_info(
                "AdaptedModel wrote nothing: set its dirpath, or trainer.logger to gradgrad.tracking.MLflowLogger, to have "
                f"{some(FILES)}"
            )
            return
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) if self.dirpath is None else self.dirpath
            names = self._write(folder, trainer, pl_module)
            if logger is None:
                return
            earlier = logger.run.client.list_artifacts(logger.run.id, FOLDER) if logger.run.attached else []
            if lost := [Path(artifact.path).name for artifact in earlier]:
                rank_zero_info(
                    f"AdaptedModel: {some(lost)} in {FOLDER}/ of run {logger.run.id} are of an earlier prediction; "
                    f"{some(names)} of this one come in their place. A dirpath keeps both."
                )
            for name in names:
                logger.run.log_file(folder / name, FOLDER)

    def _write(self, folder: Path, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILES[0]).write_text(prediction_table(self._seen))
        tasks = sum(len(batch.before) for batch in self._seen)
        lone, network = self._seen[0], getattr(pl_module, "network", None)
        if tasks > 1 or not lone.params or not isinstance(network, nn.Module):
            if tasks > 1:
                rank_zero_info(f"AdaptedModel: no adapted.pt, for there are {tasks} tasks; data.init_args.task_file is for one")
            return [FILES[0]]
        torch.save(adapted_state(network, lone.params), folder / FILES[1])
        told = {
            "support_sha256": support_digest(lone.tasks.support_x[0], lone.tasks.support_y[0]),
            "inner_steps": getattr(pl_module, "counted", None),
            "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "network": f"{type(network).__module__}.{type(network).__qualname__}",
        }
        (folder / FILES[2]).write_text(json.dumps(told, indent=2) + "\n")
        return list(FILES)


def prediction_table(seen: list[AdaptedTasks]) -> str:
    """Write what was predicted.

    Args:
        seen: batches of tasks.

    Returns:
        CSV with a row for each query, every digit: ``task`` (from 0) if there are several; the features ``x0``, ... where an
        input is a vector; in regression ``before`` and ``after`` adaptation, in the target's unit (numbered if there are several
        targets); in classification ``class_before``, ``probability_before``, ``class_after``, ``probability_after``; and
        ``target`` where one is known, else ``nan``.
    """
    import pandas as pd

    frames, first = [], 0
    several = sum(len(batch.before) for batch in seen) > 1
    known = any(bool(_known(batch.tasks.query_y).any()) for batch in seen)
    for tasks, _, _, before, after, _ in seen:
        count, queries = before.shape[:2]
        columns: dict[str, Tensor] = {}
        if several:
            columns["task"] = torch.arange(first, first + count).repeat_interleave(queries)
        if tasks.query_x.dim() == 3:
            columns |= {f"x{i}": column for i, column in enumerate(_rows(tasks.query_x).unbind(1))}
        for when, outputs in (("before", _rows(before)), ("after", _rows(after))):
            if tasks.query_y.is_floating_point():
                named = [when] if outputs.shape[1] == 1 else [f"{when}{i}" for i in range(outputs.shape[1])]
                columns |= dict(zip(named, outputs.unbind(1), strict=True))
            else:
                probability, number = outputs.softmax(1).max(1)
                columns |= {f"class_{when}": number, f"probability_{when}": probability}
        frame = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
        if known:
            target = _rows(tasks.query_y) if tasks.query_y.is_floating_point() else tasks.query_y
            target = target.flatten()
            series = pd.Series(target.numpy(), dtype=None if target.is_floating_point() else "Int64")
            frame["target"] = series.where(_known(target).numpy())
        frames.append(frame)
        first += count
    return pd.concat(frames).to_csv(index=False, na_rep="nan")


def adapted_state(network: nn.Module, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put adapted parameters into a network's state.

    Args:
        network: before adaptation; stays as it is.
        params: of a lone task, by name, with a leading dimension of 1.

    Returns:
        All parameters and buffers by name, on the CPU; of parameters that share a tensor, each name has the adapted one.
    """
    state = {name: _kept(value) for name, value in network.state_dict().items()}
    first_name = {id(p): name for name, p in network.named_parameters()}
    for name, p in network.named_parameters(remove_duplicate=False):
        state[name] = params[first_name[id(p)]][0].clone()
    return state


def support_digest(x: Tensor, y: Tensor) -> str:
    """Name a support set by its content.

    Args:
        x: inputs, shape ``(S, ...)``.
        y: targets, shape ``(S, 1)``, or class numbers, shape ``(S,)``.

    Returns:
        SHA-256 in hexadecimal of, for x and then y, the line ``<name> <dtype> <shape>``, for example ``x torch.float32 [10, 1]``
        and a newline, followed by its bytes in row-major order. Another order of samples is another digest.
    """
    digest = hashlib.sha256()
    for name, part in (("x", x), ("y", y)):
        digest.update(f"{name} {part.dtype} {list(part.shape)}\n".encode())
        digest.update(part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _known(targets: Tensor) -> Tensor:
    return ~targets.isnan() if targets.is_floating_point() else targets >= 0


def _rows(tensor: Tensor) -> Tensor:
    rows = tensor.flatten(0, 1)
    return rows if rows.dtype == torch.float64 else rows.float()


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()
