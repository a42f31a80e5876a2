"""The samples on which curvature is measured: fixed, seeded, the same at every measurement."""

import copy
import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from gradgrad.errors import UsageError
from gradgrad.penalties.micro_batches import micro_batches

Which = int | Literal["train", "val"]
SAMPLES = 256
NUMBERS = 2**16  # inputs of a batch, if twice the loader's batches are fewer: a guess, for memory goes with the network


class Probe(NamedTuple):
    """This rank's share of the samples.

    Attributes:
        batches: as the loader gives them, or on the device where the datamodule made them; can be gone through again.
        whole: whether they are the whole of a part, gone through anew each time.
    """

    batches: Iterable[Any]
    whole: bool

    def on_device(self, trainer: Trainer) -> Iterable[Any]:
        """Move the batches to the device, by the module's and the datamodule's own hooks.

        Args:
            trainer: with module and strategy.

        Returns:
            Batches; of a whole part one at a time, so that memory stays bounded.
        """
        moved = _Moved(self.batches, trainer)
        return moved if self.whole else list(moved)


class _Moved:
    def __init__(self, batches: Iterable[Any], trainer: Trainer) -> None:
        self.batches, self.trainer = batches, trainer

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            yield moved(batch, self.trainer)


def moved(batch: Any, trainer: Trainer) -> Any:
    """Take a batch the way that Lightning's training loop does.

    Args:
        batch: on the host.
        trainer: with module and strategy.

    Returns:
        The batch on the device.
    """
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def draw(trainer: Trainer, which: Which | None, micro_batch_size: int | None, seed: int) -> Probe:
    """Choose the probe.

    A datamodule may have a say: its ``probe_batches(which, rank, ranks)`` gives this rank's batches. Else the samples are drawn
    from the rows that the training loader's sampler can reach, without replacement, and put together by its own ``collate_fn``;
    ``train`` and ``val`` are all of a part. Nothing of the training's own loaders moves.

    Args:
        trainer: in training, with its loaders.
        which: a number of samples over all ranks, ``train`` or ``val``; None is the datamodule's choice, or 256, a guess.
        micro_batch_size: samples in a batch; None is twice the loader's, more if they are small (of tokens: the loader's).
        seed: of the choice.

    Returns:
        This rank's share.

    Raises:
        UsageError: the loader can be gone through only once.
    """
    rank, ranks = trainer.global_rank, trainer.world_size
    own = getattr(getattr(trainer, "datamodule", None), "probe_batches", None)
    if own is not None:
        batches = list(own(which, rank, ranks))
        if micro_batch_size is not None:
            batches = [piece for batch in batches for _, piece in micro_batches(batch, micro_batch_size)]
        return Probe(batches, whole=False)
    loaders, mode = _loaders(trainer, "val" if which == "val" else "train")
    samples = None if isinstance(which, str) else SAMPLES if which is None else which
    overfits = which != "val" and bool(getattr(trainer, "overfit_batches", 0))
    limit = int(trainer.fit_loop.max_batches) if overfits else None
    parts = tree_map(lambda loader: _share(loader, samples, micro_batch_size, seed, rank, ranks, limit), loaders)
    combined = _Again(parts, mode, seed)
    return Probe(combined, whole=True) if samples is None else Probe(list(combined), whole=False)


def sources(trainer: Trainer) -> list[Any]:
    """Find the data sets that a probe may read.

    Args:
        trainer: with its loaders.

    Returns:
        Of training and validation, and the datamodule.
    """
    loops = (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop)
    loaders = [loader for loop in loops if loop._combined_loader is not None for loader in loop._combined_loader.flattened]
    return [*(getattr(loader, "dataset", None) for loader in loaders), getattr(trainer, "datamodule", None)]


def _loaders(trainer: Trainer, part: str) -> tuple[Any, str]:
    if part == "train":
        combined = trainer.fit_loop._combined_loader
    else:
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        combined = trainer.fit_loop.epoch_loop.val_loop._combined_loader
    if combined is None or not combined.flattened:
        raise UsageError(
            f"the probe is to be drawn from the {part} data, and there is no {part} dataloader, or it is limited to 0 batches.\n"
            "write:    probe: train, or a number of training samples"
        )
    return combined.iterables, combined._mode


class _Again:
    """Loaders combined as the training combines them, from the start each time, with the same random numbers."""

    def __init__(self, loaders: Any, mode: str, seed: int) -> None:
        self.loaders, self.mode, self.seed = loaders, mode, seed

    def __iter__(self) -> Iterator[Any]:
        # Of augmentations; PyTorch's numbers are the operator's business. Restored by `undisturbed`.
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)
        if isinstance(self.loaders, Iterable) and not isinstance(self.loaders, dict | list | tuple):
            yield from self.loaders
            return
        for batch, _, _ in CombinedLoader(self.loaders, self.mode):  # type: ignore[arg-type]  # its own mode
            yield batch


def _share(
    loader: Any, samples: int | None, size: int | None, seed: int, rank: int, ranks: int, limit: int | None
) -> Iterable[Any]:
    data: Any = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        return _Stream(loader, samples)
    trained_on = _population(loader, data)
    if limit is not None:  # overfitting: the first batches, in order
        trained_on = trained_on[: limit * (loader.batch_size or 1)]
    count = len(trained_on) if samples is None else min(samples, len(trained_on))
    chosen = torch.arange(count)
    if samples is not None:
        chosen = torch.randperm(len(trained_on), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    mine = [trained_on[place] for place in chosen[rank::ranks].tolist()]
    if loader.batch_size is None and loader.batch_sampler is None:  # its items are batches already
        return DataLoader(Subset(data, mine), batch_size=None, collate_fn=loader.collate_fn)
    return DataLoader(Subset(data, mine), batch_size=size or _batch_size(loader, data), collate_fn=loader.collate_fn)


def _population(loader: DataLoader[Any], data: Any) -> Sequence[int]:
    """Find which rows are trained on: a sampler may leave some out."""
    chooser: Any = loader.sampler if type(loader.batch_sampler) in (BatchSampler, type(None)) else loader.batch_sampler
    if isinstance(chooser, DistributedSampler):  # Lightning's, around the user's own
        chooser = getattr(chooser.dataset, "_sampler", None)
    if chooser is None or isinstance(chooser, RandomSampler | SequentialSampler):
        return range(len(data))
    # One epoch of a copy, which moves nothing of the original; the data set itself is not copied.
    again = copy.deepcopy(chooser, {id(data): data})
    return sorted({int(place) for place in tree_leaves(list(again))})


def _batch_size(loader: DataLoader[Any], data: Any) -> int:
    leaves = [leaf for leaf in tree_leaves(data[0]) if isinstance(leaf, Tensor)]
    numbers = sum(leaf.numel() for leaf in leaves)
    if not loader.batch_size or not all(leaf.is_floating_point() or leaf.numel() == 1 for leaf in leaves):
        return loader.batch_size or 1  # of a token's memory nothing is known here
    return max(2 * loader.batch_size, NUMBERS // max(numbers, 1))


class _Stream:
    """The first batches of a loader without indices, from a copy of it, for the training's own must not move."""

    def __init__(self, loader: Any, samples: int | None) -> None:
        self.loader, self.samples = loader, samples

    def __iter__(self) -> Iterator[Any]:
        loader, found = self._copy(), 0
        for batch in loader:
            yield batch
            found += max((len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), default=1)
            if self.samples is not None and found >= self.samples:
                return

    def _copy(self) -> Iterable[Any]:
        source = getattr(self.loader, "dataset", self.loader)
        try:
            again = copy.deepcopy(source)
        except Exception as error:  # an open file, a generator, a connection: whatever cannot be copied says so in its own way
            raise UsageError(
                f"the probe is to be drawn from a {type(source).__name__}, which cannot be copied: {error}\n"
                "write:    probe: batch, or a data set with __len__ and __getitem__"
            ) from error
        if not isinstance(self.loader, DataLoader):
            return again  # type: ignore[no-any-return]
        size, collate = self.loader.batch_size, self.loader.collate_fn
        return DataLoader(again, batch_size=size, collate_fn=collate, drop_last=self.loader.drop_last if size else False)


def digest(batches: Iterable[Any]) -> str:
    """Name samples by their content.

    Args:
        batches: any structures of tensors.

    Returns:
        The first 32 hexadecimal digits of a SHA-256 over each tensor's dtype, shape and bytes.
    """
    found = hashlib.sha256()
    for batch in batches:
        for leaf in tree_leaves(batch):
            if isinstance(leaf, Tensor):
                found.update(f"{leaf.dtype} {list(leaf.shape)}".encode())
                found.update(leaf.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            else:
                found.update(repr(leaf).encode())
    return found.hexdigest()[:32]
